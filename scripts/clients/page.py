"""The original system's page, walked through with the generated Python client against a live server."""

import os
import secrets

from hsm_gateway_client import AuthenticatedClient, models
from hsm_gateway_client.api.crypto import decrypt, encrypt, sign, verify
from hsm_gateway_client.api.hsm_crypto import hsm_decrypt, hsm_encrypt, hsm_sign, hsm_verify
from hsm_gateway_client.api.hsm_keys import (
    hsm_create_key,
    hsm_delete_key,
    hsm_get_key,
    hsm_list_keys,
)
from hsm_gateway_client.api.slots import list_slots

HELLO = "SGVsbG8gV29ybGQh"
RUN = secrets.token_hex(4)

client = AuthenticatedClient(base_url=os.environ["BASE_URL"], token=os.environ["TOKEN"])
made: list[str] = []


def good(answer, status, kind):
    """The answer's body, which must be of this kind."""
    assert answer.status_code == status, (answer.status_code, answer.content)
    assert answer.headers["x-request-id"]
    assert isinstance(answer.parsed, kind), answer.parsed
    return answer.parsed


def bad(answer, status, code):
    """Checks that the answer is this problem."""
    problem = good(answer, status, models.Problem)
    assert answer.headers["content-type"] == "application/problem+json"
    assert (problem.code, problem.status) == (code, status), problem
    assert problem.type_ == f"/docs/errors#{code}"
    assert problem.request_id == answer.headers["x-request-id"]


def create(request):
    answer = hsm_create_key.sync_detailed(client=client, body=request)
    key = good(answer, 201, models.Key)
    made.append(key.key_id)
    assert answer.headers["location"].endswith(key.key_id)
    assert key.key_id.startswith("hsm:") and len(key.key_id) == 20
    assert key.key_label == request.key_label
    assert key.algorithm == request.key_type.value
    assert key.extractable is False
    return key


def slots():
    listed = good(list_slots.sync_detailed(client=client), 200, models.SlotList)
    assert any(slot.has_token and slot.token_label for slot in listed.slots)


def signing():
    rsa = create(
        models.CreateKeyRequest(
            key_type=models.KeyTypeName.RSA,
            key_size=2048,
            key_label=f"my_hsm_key py {RUN}",
            extractable=False,
        )
    )
    assert rsa.key_size == 2048
    assert rsa.public_key_jwk.kty == "RSA"
    assert rsa.public_key_pem.startswith("-----BEGIN PUBLIC KEY-----")
    listed = hsm_list_keys.sync_detailed(client=client, label=rsa.key_label)
    listed = good(listed, 200, models.KeyList)
    assert (listed.keys, listed.next_cursor) == ([rsa], None)
    request = models.SignRequest(data=HELLO, key_id=rsa.key_id)
    signed = good(hsm_sign.sync_detailed(client=client, body=request), 200, models.SignResponse)
    assert signed.algorithm == "RSA-PSS-SHA256"
    for data, valid in [(HELLO, True), ("aGVsbG8=", False)]:
        request = models.VerifyRequest.from_dict({"data": data, **signed.to_dict()})
        answer = hsm_verify.sync_detailed(client=client, body=request)
        assert good(answer, 200, models.VerifyResponse).valid is valid

    ec = create(
        models.CreateKeyRequest(
            key_type=models.KeyTypeName.EC,
            curve=models.CurveName.P_256,
            key_label=f"my_ec_key py {RUN}",
        )
    )
    request = models.SignRequest(
        data=HELLO, key_id=ec.key_id, algorithm=models.SignAlgorithmName.ES256
    )
    jose = good(sign.sync_detailed(client=client, body=request), 200, models.VersionedSignResponse)
    assert jose.algorithm == "ECDSA-SHA256"
    assert jose.signature_format == models.SignatureFormat.P1363
    assert jose.key_version is None
    request = models.VersionedVerifyRequest.from_dict({"data": HELLO, **jose.to_dict()})
    assert good(verify.sync_detailed(client=client, body=request), 200, models.VerifyResponse).valid


def encrypting():
    aes = create(
        models.CreateKeyRequest(
            key_type=models.KeyTypeName.AES, key_size=256, key_label=f"my_aes_key py {RUN}"
        )
    )
    request = models.EncryptRequest(
        data=HELLO, key_id=aes.key_id, algorithm=models.EncryptAlgorithmName.AES_GCM
    )
    answer = hsm_encrypt.sync_detailed(client=client, body=request)
    encrypted = good(answer, 200, models.EncryptResponse)
    assert encrypted.iv and encrypted.tag
    request = models.DecryptRequest.from_dict(encrypted.to_dict())
    answer = hsm_decrypt.sync_detailed(client=client, body=request)
    assert good(answer, 200, models.DecryptResponse).data == HELLO

    aad = "YWFk"
    request = models.EncryptRequest(data=HELLO, key_id=aes.key_id, aad=aad)
    answer = encrypt.sync_detailed(client=client, body=request)
    bound = good(answer, 200, models.VersionedEncryptResponse)
    assert bound.key_version is None
    request = models.VersionedDecryptRequest.from_dict({**bound.to_dict(), "aad": aad})
    answer = decrypt.sync_detailed(client=client, body=request)
    assert good(answer, 200, models.DecryptResponse).data == HELLO
    request = models.VersionedDecryptRequest.from_dict(bound.to_dict())
    bad(decrypt.sync_detailed(client=client, body=request), 400, "decryption_failed")


def deleting():
    while made:
        key_id = made.pop()
        answer = hsm_delete_key.sync_detailed(key_id, client=client)
        assert answer.status_code == 204, answer.content
        answer = hsm_get_key.sync_detailed(key_id, client=client)
        bad(answer, 404, "key_not_found")
        request = models.SignRequest(data=HELLO, key_id=key_id)
        answer = hsm_sign.sync_detailed(client=client, body=request)
        bad(answer, 404, "key_not_found")


try:
    slots()
    signing()
    encrypting()
finally:
    deleting()
print("Python client: the original page works")
