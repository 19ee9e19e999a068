//! Calls with an idempotency key, and what they were answered.

use sqlx::Row as _;

use super::db::Tx;
use super::error::{Result, StoreError};
use super::{Core, Store, instance};

/// Names the call of one process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TicketId(String);

/// A call with an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotentCall {
    /// Whose.
    pub subject: String,
    /// On which path.
    pub path: String,
    /// The key.
    pub key: String,
    /// SHA-256 of the body.
    pub body_hash: [u8; 32],
}

/// What a call was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The header `Location`.
    pub location: Option<String>,
    /// The body.
    pub body: String,
}

/// How a call stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It is to be done.
    Fresh(TicketId),
    /// It was answered.
    Done(Answer),
    /// The key was used with another body.
    OtherBody,
    /// It is being done.
    UnderWay,
    /// It was done, but whoever did it ended before the answer was written: it is to be answered from what was made.
    Made {
        /// For the answer.
        ticket: TicketId,
        /// What was noted.
        what: String,
    },
}

const DAY_MICROS: i64 = 24 * 3_600_000_000;
/// A call that takes longer was given up by its process, though that lives.
const GIVEN_UP_MICROS: i64 = 10 * 60_000_000;

impl Store {
    /// Begins a call, or tells how an earlier one with the same key stands. After 24 hours a key is forgotten.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn begin_call(&self, call: IdempotentCall) -> Result<Begun> {
        self.run(|core| async move {
            let mut tx = core.db.begin().await?;
            let begun = begin(&core, &mut tx, &call).await?;
            tx.commit().await?;
            Ok(begun)
        })
        .await
    }

    /// Keeps the answer.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; [`StoreError::Conflict`] if the call is no longer ours.
    pub async fn answer_call(&self, ticket: TicketId, answer: Answer) -> Result<()> {
        self.run(|core| async move {
            let mut tx = core.db.begin().await?;
            let update = sqlx::query("UPDATE calls SET status = $1, location = $2, body = $3 WHERE ticket = $4");
            let update = update
                .bind(i64::from(answer.status))
                .bind(answer.location)
                .bind(answer.body)
                .bind(ticket.0);
            one(update.execute(&mut *tx).await?.rows_affected())?;
            Ok(tx.commit().await?)
        })
        .await
    }

    /// Frees the key of a call that failed. Where it is noted that it made something all the same, the next one is answered
    /// with that.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn forget_call(&self, ticket: TicketId) -> Result<()> {
        self.run(|core| async move {
            let mut tx = core.db.begin().await?;
            let delete = sqlx::query("DELETE FROM calls WHERE ticket = $1 AND status IS NULL AND made IS NULL");
            delete.bind(ticket.0.clone()).execute(&mut *tx).await?;
            let release = sqlx::query("UPDATE calls SET owner = '' WHERE ticket = $1 AND status IS NULL");
            release.bind(ticket.0).execute(&mut *tx).await?;
            Ok(tx.commit().await?)
        })
        .await
    }

    /// Notes what a call made, for whoever must answer it after a crash.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; [`StoreError::Conflict`] if the call is no longer ours.
    pub async fn note_made(&self, ticket: &TicketId, what: String) -> Result<()> {
        let ticket = ticket.clone();
        self.run(|core| async move {
            let mut tx = core.db.begin().await?;
            note(&mut tx, &ticket, &what).await?;
            Ok(tx.commit().await?)
        })
        .await
    }

    /// Forgets calls older than 24 hours.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn sweep_calls(&self) -> Result<()> {
        self.run(|core| async move {
            let mut tx = core.db.begin().await?;
            let now = core.db.now(&mut tx).await?;
            let delete = sqlx::query("DELETE FROM calls WHERE begun_at < $1").bind(now - DAY_MICROS);
            delete.execute(&mut *tx).await?;
            Ok(tx.commit().await?)
        })
        .await
    }
}

pub(super) async fn note(tx: &mut Tx, ticket: &TicketId, what: &str) -> Result<()> {
    let update = sqlx::query("UPDATE calls SET made = $1 WHERE ticket = $2");
    let update = update.bind(what.to_owned()).bind(ticket.0.clone());
    one(update.execute(&mut **tx).await?.rows_affected())
}

fn one(rows: u64) -> Result<()> {
    let gone = || StoreError::Conflict("the call took too long: its idempotency key is another's by now".into());
    (rows == 1).then_some(()).ok_or_else(gone)
}

async fn begin(core: &Core, tx: &mut Tx, call: &IdempotentCall) -> Result<Begun> {
    let now = core.db.now(tx).await?;
    let expired = "DELETE FROM calls WHERE subject = $1 AND path = $2 AND call_key = $3 AND begun_at < $4";
    let expired = sqlx::query(expired)
        .bind(call.subject.clone())
        .bind(call.path.clone())
        .bind(call.key.clone());
    expired.bind(now - DAY_MICROS).execute(&mut **tx).await?;

    let fresh = instance::random_id()?;
    let insert = sqlx::query(
        "INSERT INTO calls (subject, path, call_key, body_hash, ticket, owner, begun_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (subject, path, call_key) DO NOTHING",
    );
    let insert = insert
        .bind(call.subject.clone())
        .bind(call.path.clone())
        .bind(call.key.clone())
        .bind(call.body_hash.to_vec())
        .bind(fresh.clone())
        .bind(core.instance.id().to_owned())
        .bind(now);
    if insert.execute(&mut **tx).await?.rows_affected() == 1 {
        return Ok(Begun::Fresh(TicketId(fresh)));
    }

    let select = sqlx::query(
        "SELECT body_hash, ticket, owner, begun_at, made, status, location, body FROM calls \
         WHERE subject = $1 AND path = $2 AND call_key = $3",
    );
    let select = select
        .bind(call.subject.clone())
        .bind(call.path.clone())
        .bind(call.key.clone());
    let Some(row) = select.fetch_optional(&mut **tx).await? else {
        return Ok(Begun::UnderWay);
    };
    if row.try_get::<Vec<u8>, _>("body_hash")? != call.body_hash {
        return Ok(Begun::OtherBody);
    }
    if let Some(status) = row.try_get::<Option<i64>, _>("status")? {
        let wrong = || StoreError::Corrupt("the kept answer of a call has no good status".into());
        return Ok(Begun::Done(Answer {
            status: u16::try_from(status).map_err(|_| wrong())?,
            location: row.try_get("location")?,
            body: row.try_get::<Option<String>, _>("body")?.unwrap_or_default(),
        }));
    }
    let owner: String = row.try_get("owner")?;
    let given_up = row.try_get::<i64, _>("begun_at")? < now - GIVEN_UP_MICROS;
    if !given_up && core.instance.lives(&core.db, tx, &owner).await? {
        return Ok(Begun::UnderWay);
    }
    let claim = "UPDATE calls SET ticket = $1, owner = $2, begun_at = $3 WHERE ticket = $4";
    let claim = sqlx::query(claim)
        .bind(fresh.clone())
        .bind(core.instance.id().to_owned())
        .bind(now);
    let claim = claim.bind(row.try_get::<String, _>("ticket")?);
    if claim.execute(&mut **tx).await?.rows_affected() == 0 {
        return Ok(Begun::UnderWay);
    }
    let ticket = TicketId(fresh);
    Ok(match row.try_get::<Option<String>, _>("made")? {
        Some(what) => Begun::Made { ticket, what },
        None => Begun::Fresh(ticket),
    })
}
