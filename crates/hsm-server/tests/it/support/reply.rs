//! [`Reply`]: an answer that says whether it is as it should be.

use serde_json::Value;

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    /// The status.
    pub(crate) status: u16,
    /// Names in lower case, in the order they came.
    pub(crate) headers: Vec<(String, String)>,
    /// The body, without chunks.
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// A header by its name in lower case; the test fails if it is there twice.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(is, _)| is == name);
        let first = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} is there twice: {self:?}");
        first
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON, whatever the status.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|why| panic!("{why}: {} {}", self.status, self.text()))
    }

    /// The JSON of an answer with this status, its content type and request id checked. `Null` where there is no body
    /// (204).
    #[track_caller]
    pub(crate) fn good(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        self.request_id();
        if status == 204 {
            assert!(self.body.is_empty());
            return Value::Null;
        }
        assert_eq!(self.header("content-type"), Some("application/json"));
        self.json()
    }

    /// The problem document with this status and code, all of its form checked (RFC 9457, contract §4).
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{code} expected: {}", self.text());
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{}",
            self.text()
        );
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["type"], format!("/docs/errors#{code}"), "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        for name in ["title", "detail"] {
            assert!(
                problem[name].as_str().is_some_and(|text| !text.trim().is_empty()),
                "{name}: {problem}"
            );
        }
        assert_eq!(problem["request_id"], self.request_id(), "{problem}");
        let members: Vec<&str> = problem.as_object().unwrap().keys().map(String::as_str).collect();
        let known = ["type", "title", "status", "detail", "code", "request_id", "checks"];
        assert!(members.iter().all(|name| known.contains(name)), "{members:?}");
        self.check_headers_of(status);
        problem
    }

    /// As [`problem`](Self::problem), and its detail has this text in it.
    #[track_caller]
    pub(crate) fn problem_naming(&self, status: u16, code: &str, named: &str) -> Value {
        let problem = self.problem(status, code);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(named), "{named:?} is not named: {detail}");
        problem
    }

    /// The request's id.
    #[track_caller]
    pub(crate) fn request_id(&self) -> &str {
        let id = self
            .header("x-request-id")
            .unwrap_or_else(|| panic!("no x-request-id: {self:?}"));
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
        assert!((1..=128).contains(&id.len()) && id.bytes().all(allowed), "{id:?}");
        id
    }

    /// The headers that belong to a status, there and only there.
    #[track_caller]
    fn check_headers_of(&self, status: u16) {
        let whole_seconds = |text: &str| text.parse::<u32>().is_ok();
        match self.header("retry-after") {
            Some(after) => assert!(
                matches!(status, 429 | 503) && whole_seconds(after),
                "{status} {after:?}"
            ),
            None => assert!(!matches!(status, 429 | 503), "no Retry-After: {self:?}"),
        }
        assert_eq!(self.header("allow").is_some(), status == 405, "{self:?}");
        match self.header("www-authenticate") {
            Some(how) => assert!(
                matches!(status, 401 | 403) && how.starts_with("Bearer realm=\"hsm\""),
                "{how}"
            ),
            None => assert_ne!(status, 401, "no WWW-Authenticate: {self:?}"),
        }
    }
}
