//! Calls that are safe to repeat: with an `Idempotency-Key` the answer of the first is given again, and nothing is done.

use std::future::Future;
use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName};
use actix_web::{FromRequest, HttpRequest, HttpResponse};
use hsm_openapi::ProblemCode;
use hsm_openapi::document::IDEMPOTENCY_KEY;
use keymgmt::store::{Begun, IdempotentCall, TicketId};
use keymgmt::{Caller, KeyId, KeyService};
use serde::Serialize;

use super::{Answer, shown, to_the_end};
use crate::app::State;
use crate::problem::ApiError;
use crate::routes::API;

const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The longest key of a call that may come again, in bytes.
const MOST_KEY: usize = 255;

/// The path of a call, and the key that the client gave it.
pub struct Once {
    path: String,
    key: Option<String>,
}

/// What a call answers when it is done.
pub struct Made {
    status: StatusCode,
    location: Option<String>,
    body: String,
}

impl FromRequest for Once {
    type Error = ApiError;
    type Future = Ready<Answer<Once>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let mut sent = request.headers().get_all(IDEMPOTENCY_KEY);
        let key = match (sent.next(), sent.next()) {
            (None, _) => Ok(None),
            (Some(key), None) => read_key(key.as_bytes()).map(Some),
            (Some(_), Some(_)) => Err(wrong_key()),
        };
        ready(key.map(|key| Once {
            path: request.path().to_owned(),
            key,
        }))
    }
}

impl Once {
    /// Does the work, or answers what was answered before. Either runs to its end even if the client goes away.
    ///
    /// `work` gets the ticket under which what it makes is noted. `status` is that of its success.
    ///
    /// # Errors
    /// What the work ends with; 409 for a key that is used with another body, or is under way; 503 without the store.
    pub async fn run<F>(
        self,
        state: &State,
        caller: &Caller,
        body_hash: [u8; 32],
        status: StatusCode,
        work: impl FnOnce(Option<TicketId>) -> F + 'static,
    ) -> Answer<HttpResponse>
    where
        F: Future<Output = Answer<Made>> + 'static,
    {
        let Once { path, key } = self;
        let Some(key) = key else {
            return to_the_end(state, async move { work(None).await.map(Made::response) }).await;
        };
        let call = IdempotentCall {
            subject: caller.subject.clone().unwrap_or_default(),
            path,
            key,
            body_hash,
        };
        let service = state.service.clone();
        to_the_end(state, async move {
            match service.idempotent(call).await? {
                Begun::Fresh(ticket) => kept(&service, ticket.clone(), work(Some(ticket)).await).await,
                Begun::Made { ticket, what } => match again(&service, &what, status).await {
                    // It was taken back.
                    Err(error) if error.code == ProblemCode::KeyNotFound => {
                        kept(&service, ticket.clone(), work(Some(ticket)).await).await
                    }
                    made => kept(&service, ticket, made).await,
                },
                Begun::Done(answer) => Ok(replayed(answer)),
                Begun::OtherBody => Err(conflict("was used with another body; choose a new one")),
                Begun::UnderWay => Err(conflict("is that of a call that is under way; wait for its answer")),
            }
        })
        .await
    }
}

impl Made {
    /// 201, and where it is under `/api/v1`.
    ///
    /// # Errors
    /// 500 for what can't be written.
    pub fn created(path: &str, body: &impl Serialize) -> Answer<Made> {
        Ok(Made {
            status: StatusCode::CREATED,
            location: Some(format!("{API}{path}")),
            body: json(body)?,
        })
    }

    /// 200.
    ///
    /// # Errors
    /// 500 for what can't be written.
    pub fn ok(body: &impl Serialize) -> Answer<Made> {
        Ok(Made {
            status: StatusCode::OK,
            location: None,
            body: json(body)?,
        })
    }

    fn response(self) -> HttpResponse {
        let Made { status, location, body } = self;
        let mut response = HttpResponse::build(status);
        response.insert_header((header::CONTENT_TYPE, "application/json"));
        if let Some(location) = location {
            response.insert_header((header::LOCATION, location));
        }
        response.body(body)
    }
}

/// Keeps the answer for whoever asks again; an error frees the key.
async fn kept(service: &KeyService, ticket: TicketId, made: Answer<Made>) -> Answer<HttpResponse> {
    let noted = match &made {
        Ok(made) => service.answer_call(ticket, made.to_answer()).await,
        Err(_) => service.forget_call(ticket).await,
    };
    if let Err(error) = noted {
        tracing::warn!(%error, "an idempotent call could not be noted");
    }
    made.map(Made::response)
}

/// The answer to a call whose process ended before it was answered: what it made, as it is now.
async fn again(service: &KeyService, what: &str, status: StatusCode) -> Answer<Made> {
    let made = match KeyId::parse(what)? {
        KeyId::Hsm(id) => {
            let managed_by = service.managed_by(&id);
            let info = service.key(id.into()).await?;
            Made::created(&format!("/hsm/keys/{}", info.id), &shown::token_key(info, managed_by))?
        }
        KeyId::Managed(name) => {
            let managed = service.managed(&name).await?;
            Made::created(&format!("/keys/{name}"), &shown::managed(managed)?)?
        }
    };
    let is_new = status == StatusCode::CREATED;
    Ok(Made {
        status,
        location: made.location.filter(|_| is_new),
        ..made
    })
}

impl Made {
    fn to_answer(&self) -> keymgmt::store::Answer {
        keymgmt::store::Answer {
            status: self.status.as_u16(),
            location: self.location.clone(),
            body: self.body.clone(),
        }
    }
}

fn replayed(answer: keymgmt::store::Answer) -> HttpResponse {
    let keymgmt::store::Answer { status, location, body } = answer;
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let made = Made { status, location, body };
    let mut response = made.response();
    response
        .headers_mut()
        .insert(REPLAYED, header::HeaderValue::from_static("true"));
    response
}

fn json(body: &impl Serialize) -> Answer<String> {
    let text = serde_json::to_string(body);
    text.map_err(|_| ApiError::new(ProblemCode::Internal, "the answer can't be written"))
}

fn read_key(bytes: &[u8]) -> Answer<String> {
    let fits = (1..=MOST_KEY).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    let text = std::str::from_utf8(bytes).ok().filter(|_| fits);
    text.map(str::to_owned).ok_or_else(wrong_key)
}

fn wrong_key() -> ApiError {
    let text =
        format!("the header `{IDEMPOTENCY_KEY}` must be there once, with 1 to {MOST_KEY} visible ASCII characters");
    ApiError::new(ProblemCode::InvalidRequest, text)
}

fn conflict(why: &str) -> ApiError {
    ApiError::new(ProblemCode::Conflict, format!("this `{IDEMPOTENCY_KEY}` {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_calls_are_visible_ascii() {
        assert_eq!(read_key(b"5f0c-!~").expect("a key"), "5f0c-!~");
        assert!(read_key(&[b'x'; MOST_KEY]).is_ok());
        for wrong in [&b""[..], b"a b", b"\x7f", "ä".as_bytes(), &[b'x'; MOST_KEY + 1]] {
            let error = read_key(wrong).expect_err("no key");
            assert_eq!(error.code, ProblemCode::InvalidRequest);
            assert!(error.detail.contains("Idempotency-Key"), "{}", error.detail);
        }
    }
}
