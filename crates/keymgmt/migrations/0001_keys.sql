-- One text for both databases. {bytes} is BLOB or BYTEA; {name} is a text that sorts by its bytes.
-- Times are microseconds since 1970-01-01 UTC.

CREATE TABLE keys (
    name {name} NOT NULL PRIMARY KEY,
    key_type TEXT NOT NULL,
    size TEXT NOT NULL,
    usages TEXT NOT NULL,
    protection TEXT NOT NULL,
    token TEXT,
    state TEXT NOT NULL,
    state_before TEXT,
    destroy_at BIGINT,
    primary_version BIGINT NOT NULL,
    rotation_period_days BIGINT,
    rotate_after_operations BIGINT,
    next_rotation_at BIGINT,
    created_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    seal_version BIGINT NOT NULL,
    seal_mac {bytes} NOT NULL,
    -- The oldest version of the gateway keys that the seal or a wrapped version needs.
    oldest_kek BIGINT NOT NULL,
    -- 1: destroyed, but a version's material may still be there.
    unfinished BIGINT NOT NULL,
    operations BIGINT NOT NULL,
    operations_at_rotation BIGINT NOT NULL,
    last_used_at BIGINT
);

CREATE INDEX keys_not_enabled ON keys (state, name) WHERE state <> 'enabled';
CREATE INDEX keys_to_rotate ON keys (next_rotation_at) WHERE state = 'enabled' AND next_rotation_at IS NOT NULL;
CREATE INDEX keys_to_rotate_by_use ON keys (name) WHERE state = 'enabled' AND rotate_after_operations IS NOT NULL;
CREATE INDEX keys_to_destroy ON keys (destroy_at) WHERE state = 'scheduled_for_destruction';
CREATE INDEX keys_unfinished ON keys (name) WHERE unfinished = 1;
CREATE INDEX keys_by_kek ON keys (oldest_kek, name);

CREATE TABLE versions (
    name {name} NOT NULL REFERENCES keys (name) ON DELETE CASCADE,
    version BIGINT NOT NULL,
    state TEXT NOT NULL,
    material TEXT NOT NULL,
    hsm_id TEXT,
    kek_version BIGINT,
    algorithm TEXT,
    wrapped {bytes},
    public_key {bytes},
    created_at BIGINT NOT NULL,
    encryptions_reserved BIGINT NOT NULL,
    PRIMARY KEY (name, version)
);

CREATE UNIQUE INDEX versions_on_token ON versions (hsm_id) WHERE material = 'token';

CREATE TABLE tags (
    tag TEXT NOT NULL,
    value TEXT NOT NULL,
    name {name} NOT NULL REFERENCES keys (name) ON DELETE CASCADE,
    PRIMARY KEY (name, tag)
);

CREATE INDEX tags_by_value ON tags (tag, value, name);

CREATE TABLE gateway_keys (
    version BIGINT NOT NULL PRIMARY KEY,
    kek TEXT NOT NULL,
    mac TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE instances (
    id TEXT NOT NULL PRIMARY KEY,
    seen_at BIGINT NOT NULL
);

CREATE TABLE intents (
    id TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    name TEXT,
    -- The name again while nobody else may begin anything with it.
    locked_name TEXT UNIQUE,
    ids TEXT NOT NULL,
    owner TEXT NOT NULL,
    abandoned BIGINT NOT NULL,
    begun_at BIGINT NOT NULL
);

CREATE TABLE calls (
    subject TEXT NOT NULL,
    path TEXT NOT NULL,
    call_key TEXT NOT NULL,
    body_hash {bytes} NOT NULL,
    ticket TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    begun_at BIGINT NOT NULL,
    made TEXT,
    status BIGINT,
    location TEXT,
    body TEXT,
    PRIMARY KEY (subject, path, call_key)
);

CREATE INDEX calls_by_age ON calls (begun_at);

CREATE TABLE changes (
    seq BIGINT NOT NULL PRIMARY KEY,
    -- NULL: the gateway's own keys.
    name TEXT
);

CREATE TABLE counters (
    name TEXT NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);

INSERT INTO counters (name, value) VALUES ('changes', 0);
