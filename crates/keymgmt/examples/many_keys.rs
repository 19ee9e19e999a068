//! Measures a store that is full of wrapped keys: `many_keys [KEYS] [KEYS USED] [KEYS ON THE TOKEN] [SECONDS]`, by default
//! 1000000 10000 1000 20. On SoftHSM and SQLite, both in temporary folders; build it with `--release`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement that fails has nothing to say"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_executor::block_on;
use hsm_core::pkcs11::Module;
use hsm_core::{Encrypt, Hsm, KeyRef, KeySpec, Options, Usages};
use keymgmt::audit::{AuditLog, Sync};
use keymgmt::managed::Settings;
use keymgmt::managed::record::Protection;
use keymgmt::service::{ListQuery, NewManaged, Parts, Rotation};
use keymgmt::store::{Place, Store};
use keymgmt::{Caller, Hooks, KeyId, KeyService, ManagedId, Tokens};
use softhsm_test::Token;

/// Keys that are written in one transaction.
const BATCH: usize = 1000;
const FILL: &str = "fill";
const THREADS: usize = 4;
/// Values of the tag, evenly spread.
const TAGS: usize = 1000;
const AES: KeySpec = KeySpec::Aes { bits: 256 };

/// Which token.
struct Site {
    module: String,
    label: String,
    pin: String,
    folder: PathBuf,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, module, label, pin, folder, keys, on_token] = arguments.as_slice()
        && first == FILL
    {
        let place = Site {
            module: module.clone(),
            label: label.clone(),
            pin: pin.clone(),
            folder: folder.into(),
        };
        make_all(&place, keys.parse().unwrap(), on_token.parse().unwrap());
        return;
    }
    let number = |at: usize, default| arguments.get(at).map_or(default, |text| text.parse().unwrap());
    let (keys, used, on_token) = (number(0, 1_000_000), number(1, 10_000), number(2, 1000));
    let span = Duration::from_secs(number(3, 20).try_into().unwrap());
    let token = Token::softhsm();
    token.apply_env();
    let folder = tempfile::tempdir().unwrap();
    let place = Site {
        module: token.module().to_str().unwrap().to_owned(),
        label: token.label().to_owned(),
        pin: token.pin().to_owned(),
        folder: folder.path().to_owned(),
    };
    // In a process of its own: this one's memory is measured.
    let filled = Command::new(std::env::current_exe().unwrap())
        .args([FILL, &place.module, &place.label, &place.pin])
        .arg(&place.folder)
        .args([keys.to_string(), on_token.to_string()])
        .status();
    assert!(filled.unwrap().success());
    use_them(&place, keys, used, on_token, span);
}

fn make_all(place: &Site, keys: usize, on_token: usize) {
    let service = open(place);
    let began = Instant::now();
    fill(&service, keys);
    let took = began.elapsed().as_secs_f64();
    println!(
        "{keys} wrapped keys made and written in {took:.0} s: {:.0} a second",
        keys as f64 / took
    );
    let began = Instant::now();
    for at in 0..on_token {
        let new = new(&format!("token-{at:06}"), Protection::Hsm, at);
        block_on(service.create_managed(&caller(), new, None)).unwrap();
    }
    println!(
        "{on_token} keys on the token made in {:.0} s",
        began.elapsed().as_secs_f64()
    );
    close(&service);
    drop(service);
    let size = std::fs::metadata(place.folder.join("store.sqlite")).unwrap().len();
    println!(
        "the database has {} MiB, {} bytes a key",
        size >> 20,
        size / (keys.max(1) as u64)
    );
}

fn use_them(place: &Site, keys: usize, used: usize, on_token: usize, span: Duration) {
    let before = resident();
    let began = Instant::now();
    let service = open(place);
    println!(
        "started anew in {:.2} s; resident {} MiB",
        began.elapsed().as_secs_f64(),
        resident()
    );
    let wrapped = |at: usize| format!("wrapped-{:07}", at % used * (keys / used).max(1));
    let (cold, _) = run(&service, used / THREADS, None, &wrapped, false);
    println!(
        "first use of {used} wrapped keys: {cold:.0} encryptions a second; resident {} MiB",
        resident()
    );
    let hits = service.tokens().named(None).unwrap().loaded();
    let (warm, done) = run(&service, usize::MAX, Some(span), &wrapped, true);
    let now = service.tokens().named(None).unwrap().loaded();
    let rate = 100.0 * (now.hits - hits.hits) as f64 / (now.hits + now.misses - hits.hits - hits.misses).max(1) as f64;
    println!(
        "{done} random uses of the {used}: {warm:.0} encryptions a second, {rate:.1} % of them with the key loaded ({} of {} places)",
        now.keys, now.most
    );
    let on_token_key = |at: usize| format!("token-{:06}", at % on_token.max(1));
    if on_token > 0 {
        run(&service, on_token, None, &on_token_key, false);
        let (rate, _) = run(&service, usize::MAX, Some(span / 4), &on_token_key, true);
        println!("random uses of the {on_token} on the token: {rate:.0} encryptions a second");
    }
    println!("resident {} MiB, {before} MiB before all of it", resident());
    pages(&service, keys);
    close(&service);
}

fn open(place: &Site) -> KeyService {
    let mut options = Options {
        pin: Some(place.pin.clone().into()),
        hidden: Some(keymgmt::managed::OWN_LABELS.into()),
        ..Options::default()
    };
    options.token.label = Some(place.label.clone());
    let hsm = Hsm::open(Module::load(place.module.as_ref(), None).unwrap(), options).unwrap();
    KeyService::new(Parts {
        tokens: Tokens::one(hsm),
        audit: AuditLog::open(&place.folder.join("audit"), Sync::Always).unwrap(),
        store: Store::open(Place::Sqlite(place.folder.join("store.sqlite"))).unwrap(),
        hooks: Hooks {
            describe: |error| panic!("{error}"),
            observe: Arc::new(|_, _, _| {}),
        },
        settings: Settings {
            stale: Duration::from_secs(300),
            cached_keys: 20_000,
        },
    })
    .unwrap()
}

fn close(service: &KeyService) {
    service.close();
    service.audit().close();
    service.tokens().stop(Duration::from_secs(10));
}

fn new(name: &str, protection: Protection, at: usize) -> NewManaged {
    NewManaged {
        name: ManagedId::parse(name).unwrap(),
        spec: AES,
        protection,
        usages: Usages::default_for(AES.key_type()),
        token: None,
        rotation: Rotation::default(),
        tags: BTreeMap::from([("shard".to_owned(), format!("{}", at % TAGS))]),
    }
}

fn fill(service: &KeyService, keys: usize) {
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let from = usize::try_from(next.fetch_add(BATCH as u64, Ordering::Relaxed)).unwrap();
                    if from >= keys {
                        return;
                    }
                    let batch = from..keys.min(from + BATCH);
                    let batch = batch.map(|at| new(&format!("wrapped-{at:07}"), Protection::Wrapped, at));
                    block_on(service.fill(batch.collect())).unwrap();
                }
            });
        }
    });
}

/// Encrypts 64 bytes again and again, by several threads; answers how many a second, and how many in all.
fn run(
    service: &KeyService,
    times: usize,
    span: Option<Duration>,
    name: &(impl Fn(usize) -> String + std::marker::Sync),
    random: bool,
) -> (f64, u64) {
    let began = Instant::now();
    let done = AtomicU64::new(0);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let done = &done;
            scope.spawn(move || {
                let mut seed = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(thread as u64 + 1);
                for round in 0..times {
                    if span.is_some_and(|span| began.elapsed() >= span) {
                        return;
                    }
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    let at = if random {
                        (seed >> 33) as usize
                    } else {
                        round * THREADS + thread
                    };
                    let id = KeyId::parse(&name(at)).unwrap();
                    let request = |key: KeyRef| Encrypt::new(key, [7; 64]);
                    block_on(service.encrypt(&caller(), id, request)).unwrap();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let done = done.into_inner();
    (done as f64 / began.elapsed().as_secs_f64(), done)
}

fn pages(service: &KeyService, keys: usize) {
    let page = |after: Option<KeyId>, tag: Option<usize>| {
        let query = ListQuery {
            after,
            limit: 100,
            tag: tag.map(|value| ("shard".to_owned(), value.to_string())),
            ..ListQuery::default()
        };
        let began = Instant::now();
        let page = block_on(service.list(query)).unwrap();
        (began.elapsed().as_secs_f64() * 1000.0, page.keys.len())
    };
    let middle = KeyId::parse(&format!("wrapped-{:07}", keys / 2)).ok();
    for (what, after, tag) in [
        ("with a tag, the first", None, true),
        ("with a tag, from the middle", middle.clone(), true),
        ("of all, the first", None, false),
        ("of all, from the middle", middle, false),
    ] {
        let mut times: Vec<(f64, usize)> = (0..21)
            .map(|round| page(after.clone(), tag.then_some(round * 7)))
            .collect();
        times.sort_by(|one, other| one.0.total_cmp(&other.0));
        println!(
            "a page of {} keys {what}: {:.1} ms (median of 21)",
            times[10].1, times[10].0
        );
    }
}

/// Resident memory of this process in MiB, the module's and the database's in it.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

fn caller() -> Caller {
    Caller {
        request_id: "many keys".into(),
        subject: None,
        client: None,
    }
}
