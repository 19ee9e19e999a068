//! Two tokens that hold the same keys of the gateway.

use hsm_core::{SharedBackend, TokenName};
use keymgmt::Further;

use super::*;

#[test]
fn a_token_that_is_added_serves_wrapped_keys() {
    let (tokens, folder) = (Token::several(&["one", "two"]), TempDir::new().unwrap());
    tokens[0].apply_env();
    let module = SharedBackend::new(Module::load(tokens[0].module(), None).unwrap());
    let second = TokenName::parse("second").unwrap();
    let open = |token: &Token, name: Option<TokenName>| {
        let mut options = Options {
            name,
            pin: Some(token.pin().into()),
            hidden: Some(OWN_LABELS.into()),
            ..Options::default()
        };
        options.token.label = Some(token.label().to_owned());
        Hsm::open(module.clone(), options).unwrap()
    };
    let hsm = open(&tokens[1], Some(second.clone()));
    let further = BTreeMap::from([(second.clone(), Further { hsm, module: 0 })]);
    let gateway = Gateway::with(&Tokens::new(open(&tokens[0], None), further), folder.path());
    gateway.create("before", Protection::Wrapped);
    let there = |key: &str| NewManaged {
        token: Some("second".into()),
        ..new_aes(key, Protection::Wrapped)
    };
    let create = |key: &str| gateway.run(gateway.service.create_managed(&caller(), there(key), None));
    assert!(matches!(create("early"), Err(Error::Conflict(_))));

    let rotate = |to: &[TokenName]| gateway.run(gateway.service.rotate_kek(to, |_, _| ()));
    assert_eq!(rotate(std::slice::from_ref(&second)).unwrap(), 2);
    create("there").unwrap();
    assert_eq!(gateway.encrypt("there").unwrap().0, 1);
    assert_eq!(gateway.encrypt("before").unwrap().0, 1);
    // The same key is on both, and may leave neither.
    let keys = gateway.run(gateway.service.kek_status()).unwrap().keys;
    let id = keys[1].kek.to_string().replace("hsm:", "");
    for token in &tokens {
        assert_eq!(token.attributes(&id)[0].extractable, Some(false));
    }

    // One that leaves the second token out would lose what lies under it there.
    assert!(matches!(rotate(&[]), Err(Error::Conflict(_))));
    assert_eq!(rotate(std::slice::from_ref(&second)).unwrap(), 3);
    assert_eq!(gateway.encrypt("there").unwrap().0, 1);
    gateway.close();
}
