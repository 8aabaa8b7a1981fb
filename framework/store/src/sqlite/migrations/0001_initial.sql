-- Times are milliseconds since 1970 in UTC. Payloads are text: nothing in the database looks inside.

CREATE TABLE settings (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE definitions (
    id TEXT PRIMARY KEY,
    text TEXT NOT NULL
);

CREATE TABLE state_machines (
    account TEXT NOT NULL,
    region TEXT NOT NULL,
    name TEXT NOT NULL,
    definition_id TEXT NOT NULL,
    role_arn TEXT NOT NULL,
    kind TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    settings TEXT NOT NULL,
    PRIMARY KEY (account, region, name)
) WITHOUT ROWID;

CREATE TABLE activities (
    account TEXT NOT NULL,
    region TEXT NOT NULL,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    settings TEXT NOT NULL,
    PRIMARY KEY (account, region, name)
) WITHOUT ROWID;

-- One row per execution, written when it starts, when its wake-up moves and when it ends. Ids are spread like
-- hashes; numbers rise, so what is new lies side by side.
CREATE TABLE executions (
    number INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    slot INTEGER NOT NULL,
    account TEXT NOT NULL,
    region TEXT NOT NULL,
    state_machine TEXT NOT NULL,
    -- The part of the execution's ARN before its name: the state machine's name, and a label where it has one.
    arn_state_machine TEXT NOT NULL,
    name TEXT NOT NULL,
    definition_id TEXT NOT NULL,
    role_arn TEXT NOT NULL,
    status TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    stopped_at INTEGER,
    wake_at INTEGER,
    input TEXT NOT NULL,
    output TEXT,
    error TEXT,
    cause TEXT,
    trace_header TEXT
);

-- The listing, newest first (read backwards).
CREATE INDEX executions_listed ON executions (account, region, state_machine, started_at, id);
-- What is due.
CREATE INDEX executions_due ON executions (wake_at, id, slot) WHERE wake_at IS NOT NULL;
-- What runs, for recovery.
CREATE INDEX executions_running ON executions (id, slot) WHERE stopped_at IS NULL;

-- One row per decision; inserted, read, and never changed. A commit writes whole pages to the log: rows are
-- appended, and the key begins with the execution's number and not with its id, so that the decisions of the
-- executions that run now touch few pages of it.
CREATE TABLE history (
    execution INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    first_event_id INTEGER NOT NULL,
    last_event_id INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    payload TEXT NOT NULL,
    PRIMARY KEY (execution, sequence)
);

CREATE TABLE snapshots (
    execution_id BLOB NOT NULL PRIMARY KEY,
    sequence INTEGER NOT NULL,
    payload TEXT NOT NULL
);

-- A coordinator lives while its row has not expired, and its shards live with it.
CREATE TABLE owners (
    owner TEXT PRIMARY KEY,
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE shards (
    shard INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    owner TEXT
);
