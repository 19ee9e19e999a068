use keymgmt::store::{Answer, Begun, Done, IdempotentCall, StoreError, TicketId};

use crate::place::{Database, block_on, on_both, wrapped};

on_both!(
    a_call_is_done_once_and_answered_again,
    a_call_that_failed_can_be_done_again,
    a_call_is_forgotten_after_a_day,
    what_a_dead_process_made_is_told,
);

fn call() -> IdempotentCall {
    IdempotentCall {
        subject: "alice".into(),
        path: "/api/v1/keys".into(),
        key: "once".into(),
        body_hash: [3; 32],
    }
}

fn fresh(begun: Begun) -> TicketId {
    match begun {
        Begun::Fresh(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

fn answer() -> Answer {
    Answer {
        status: 201,
        location: Some("/api/v1/keys/a".into()),
        body: "{}".into(),
    }
}

fn a_call_is_done_once_and_answered_again(database: &Database) {
    let (store, other) = (database.open(), database.open());
    let ticket = fresh(block_on(store.begin_call(call())).unwrap());
    assert_eq!(block_on(other.begin_call(call())).unwrap(), Begun::UnderWay);
    let other_body = IdempotentCall {
        body_hash: [4; 32],
        ..call()
    };
    assert_eq!(
        block_on(other.begin_call(other_body.clone())).unwrap(),
        Begun::OtherBody
    );
    let done = Done {
        intent: None,
        ticket: Some((ticket.clone(), "a".into())),
    };
    block_on(store.create(wrapped("a"), done)).unwrap();
    assert_eq!(block_on(other.begin_call(call())).unwrap(), Begun::UnderWay);
    block_on(store.answer_call(ticket.clone(), answer())).unwrap();
    block_on(store.forget_call(ticket)).unwrap();
    assert_eq!(
        block_on(other.begin_call(call())).unwrap(),
        Begun::Done(answer()),
        "an answer is not forgotten"
    );
    assert_eq!(block_on(other.begin_call(other_body)).unwrap(), Begun::OtherBody);
    fresh(
        block_on(other.begin_call(IdempotentCall {
            subject: "bob".into(),
            ..call()
        }))
        .unwrap(),
    );
    fresh(
        block_on(other.begin_call(IdempotentCall {
            path: "/".into(),
            ..call()
        }))
        .unwrap(),
    );
}

fn a_call_that_failed_can_be_done_again(database: &Database) {
    let store = database.open();
    let ticket = fresh(block_on(store.begin_call(call())).unwrap());
    block_on(store.forget_call(ticket.clone())).unwrap();
    fresh(block_on(store.begin_call(call())).unwrap());
    let late = block_on(store.answer_call(ticket.clone(), answer()));
    assert!(matches!(late, Err(StoreError::Conflict(_))), "{late:?}");
    let late = block_on(store.note_made(&ticket, "a".into()));
    assert!(matches!(late, Err(StoreError::Conflict(_))), "{late:?}");
}

fn a_call_is_forgotten_after_a_day(database: &Database) {
    let store = database.open();
    let ticket = fresh(block_on(store.begin_call(call())).unwrap());
    block_on(store.answer_call(ticket, answer())).unwrap();
    block_on(store.sweep_calls()).unwrap();
    assert_eq!(block_on(store.begin_call(call())).unwrap(), Begun::Done(answer()));
    let a_day_later = "UPDATE calls SET begun_at = begun_at - 86400000000 - 60000000";
    database.sql(a_day_later);
    let ticket = fresh(block_on(store.begin_call(call())).unwrap());
    block_on(store.answer_call(ticket.clone(), answer())).unwrap();
    database.sql(a_day_later);
    block_on(store.sweep_calls()).unwrap();
    let swept = block_on(store.note_made(&ticket, "a".into()));
    assert!(matches!(swept, Err(StoreError::Conflict(_))), "{swept:?}");
}

fn what_a_dead_process_made_is_told(database: &Database) {
    let dead = database.open();
    let ticket = fresh(block_on(dead.begin_call(call())).unwrap());
    let nothing_made = IdempotentCall {
        key: "twice".into(),
        ..call()
    };
    fresh(block_on(dead.begin_call(nothing_made.clone())).unwrap());
    block_on(dead.note_made(&ticket, "hsm:01".into())).unwrap();
    dead.close();
    drop(dead);
    let store = database.open();
    let Begun::Made { ticket, what } = block_on(store.begin_call(call())).unwrap() else {
        panic!("it was made");
    };
    assert_eq!(what, "hsm:01");
    block_on(store.answer_call(ticket, answer())).unwrap();
    assert_eq!(block_on(store.begin_call(call())).unwrap(), Begun::Done(answer()));
    fresh(block_on(store.begin_call(nothing_made)).unwrap());
}
