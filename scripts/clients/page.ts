// The original system's page, walked through with the generated TypeScript client against a live server.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

type Problem = components["schemas"]["Problem"];

const baseUrl = process.env["BASE_URL"];
const token = process.env["TOKEN"];
assert(baseUrl && token, "BASE_URL and TOKEN must be set");

const client = createClient<paths>({
  baseUrl,
  headers: { Authorization: `Bearer ${token}` },
});
const run = randomBytes(4).toString("hex");
const hello = "SGVsbG8gV29ybGQh";
const made: string[] = [];

interface Answer<T> {
  data?: T;
  error?: Problem;
  response: Response;
}

/** The answer's body, or a failure that shows the problem. */
function good<T>(answer: Answer<T>, status: number): T {
  assert.equal(answer.response.status, status, JSON.stringify(answer.error));
  assert(answer.response.headers.get("x-request-id"), "x-request-id");
  return answer.data as T;
}

/** The problem that an answer must be. */
function bad<T>(answer: Answer<T>, status: number, code: string): void {
  assert.equal(answer.response.status, status);
  assert.equal(answer.response.headers.get("content-type"), "application/problem+json");
  const problem = answer.error;
  assert(problem, "a problem");
  assert.equal(problem.code, code);
  assert.equal(problem.status, status);
  assert.equal(problem.type, `/docs/errors#${code}`);
  assert.equal(problem.request_id, answer.response.headers.get("x-request-id"));
}

async function create(body: components["schemas"]["CreateKeyRequest"]): Promise<components["schemas"]["Key"]> {
  const key = good(await client.POST("/api/v1/hsm/keys", { body }), 201);
  made.push(key.key_id);
  assert.match(key.key_id, /^hsm:[0-9a-f]{16}$/);
  assert.equal(key.key_label, body.key_label);
  assert.equal(key.algorithm, body.key_type);
  assert.equal(key.extractable, false);
  return key;
}

async function slots(): Promise<void> {
  const { slots } = good(await client.GET("/api/v1/hsm/slots"), 200);
  assert(slots.some((slot) => slot.has_token && slot.token_label !== null));
}

async function signing(): Promise<void> {
  const rsa = await create({
    key_type: "RSA",
    key_size: 2048,
    key_label: `my_hsm_key ts ${run}`,
    extractable: false,
  });
  assert.equal(rsa.key_size, 2048);
  assert.equal(rsa.public_key_jwk?.kty, "RSA");
  assert(rsa.public_key_pem?.startsWith("-----BEGIN PUBLIC KEY-----"));
  const list = good(
    await client.GET("/api/v1/hsm/keys", { params: { query: { label: rsa.key_label } } }),
    200,
  );
  assert.deepEqual(list, { keys: [rsa], next_cursor: null });
  const signed = good(
    await client.POST("/api/v1/hsm/sign", { body: { data: hello, key_id: rsa.key_id } }),
    200,
  );
  assert.equal(signed.algorithm, "RSA-PSS-SHA256");
  const verify = { data: hello, ...signed };
  assert.equal(good(await client.POST("/api/v1/hsm/verify", { body: verify }), 200).valid, true);
  const other = { ...verify, data: "aGVsbG8=" };
  assert.equal(good(await client.POST("/api/v1/hsm/verify", { body: other }), 200).valid, false);

  const ec = await create({ key_type: "EC", curve: "P-256", key_label: `my_ec_key ts ${run}` });
  const body = { data: hello, key_id: ec.key_id, algorithm: "ES256" as const };
  const jose = good(await client.POST("/api/v1/sign", { body }), 200);
  assert.equal(jose.algorithm, "ECDSA-SHA256");
  assert.equal(jose.signature_format, "p1363");
  assert.equal(jose.key_version, null);
  const valid = good(await client.POST("/api/v1/verify", { body: { data: hello, ...jose } }), 200);
  assert.equal(valid.valid, true);
}

async function encrypting(): Promise<void> {
  const aes = await create({ key_type: "AES", key_size: 256, key_label: `my_aes_key ts ${run}` });
  const encrypted = good(
    await client.POST("/api/v1/hsm/encrypt", {
      body: { data: hello, key_id: aes.key_id, algorithm: "AES-GCM" },
    }),
    200,
  );
  assert(encrypted.iv && encrypted.tag);
  const decrypted = good(await client.POST("/api/v1/hsm/decrypt", { body: encrypted }), 200);
  assert.equal(decrypted.data, hello);
  const aad = "YWFk";
  const bound = good(
    await client.POST("/api/v1/encrypt", { body: { data: hello, key_id: aes.key_id, aad } }),
    200,
  );
  assert.equal(bound.key_version, null);
  const back = good(await client.POST("/api/v1/decrypt", { body: { ...bound, aad } }), 200);
  assert.equal(back.data, hello);
  bad(await client.POST("/api/v1/decrypt", { body: bound }), 400, "decryption_failed");
}

async function deleting(): Promise<void> {
  for (const key_id of made.splice(0)) {
    const path = { key_id };
    good(await client.DELETE("/api/v1/hsm/keys/{key_id}", { params: { path } }), 204);
    bad(await client.GET("/api/v1/hsm/keys/{key_id}", { params: { path } }), 404, "key_not_found");
    const body = { data: hello, key_id };
    bad(await client.POST("/api/v1/hsm/sign", { body }), 404, "key_not_found");
  }
}

try {
  await slots();
  await signing();
  await encrypting();
} finally {
  await deleting();
}
console.log("TypeScript client: the original page works");
