-- Times are milliseconds since 1970 in UTC. Payloads are text: nothing in the database looks inside.

CREATE TABLE settings (
    name text PRIMARY KEY,
    value text NOT NULL
);

CREATE TABLE definitions (
    id text PRIMARY KEY,
    text text NOT NULL
);

CREATE TABLE state_machines (
    account text NOT NULL,
    region text NOT NULL,
    name text COLLATE "C" NOT NULL,
    definition_id text NOT NULL,
    role_arn text NOT NULL,
    kind text NOT NULL,
    status text NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    settings text NOT NULL,
    PRIMARY KEY (account, region, name)
);

CREATE TABLE activities (
    account text NOT NULL,
    region text NOT NULL,
    name text COLLATE "C" NOT NULL,
    created_at bigint NOT NULL,
    settings text NOT NULL,
    PRIMARY KEY (account, region, name)
);

-- One row per execution, written when it starts, when its wake-up moves and when it ends. An update touches
-- wake_at, which is indexed, so it is never a heap-only one: vacuum early, and keep little space free.
CREATE TABLE executions (
    id bytea NOT NULL PRIMARY KEY,
    slot smallint NOT NULL,
    account text NOT NULL,
    region text NOT NULL,
    state_machine text COLLATE "C" NOT NULL,
    -- The part of the execution's ARN before its name: the state machine's name, and a label where it has one.
    arn_state_machine text NOT NULL,
    name text NOT NULL,
    definition_id text NOT NULL,
    role_arn text NOT NULL,
    status text NOT NULL,
    started_at bigint NOT NULL,
    stopped_at bigint,
    wake_at bigint,
    input text NOT NULL,
    output text,
    error text,
    cause text,
    trace_header text
) WITH (
    fillfactor = 90,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0.05
);

-- The listing, newest first (read backwards).
CREATE INDEX executions_listed ON executions (account, region, state_machine, started_at, id);
-- What is due; the slot is in it so that another coordinator's wake-ups are passed over within the index.
CREATE INDEX executions_due ON executions (wake_at, id, slot) WHERE wake_at IS NOT NULL;
-- What runs, for recovery.
CREATE INDEX executions_running ON executions (id, slot) WHERE stopped_at IS NULL;

-- One row per decision; inserted, read, and never changed.
CREATE TABLE history (
    execution_id bytea NOT NULL,
    sequence bigint NOT NULL,
    first_event_id bigint NOT NULL,
    last_event_id bigint NOT NULL,
    epoch bigint NOT NULL,
    payload text NOT NULL,
    PRIMARY KEY (execution_id, sequence)
) WITH (
    fillfactor = 100,
    autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_analyze_scale_factor = 0.2
);

CREATE TABLE snapshots (
    execution_id bytea PRIMARY KEY,
    sequence bigint NOT NULL,
    payload text NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05);

-- lz4 costs a fraction of the default compression; PostgreSQL 13 and some builds do not have it.
DO $$
BEGIN
    IF current_setting('server_version_num')::int >= 140000 THEN
        EXECUTE 'ALTER TABLE history ALTER payload SET COMPRESSION lz4';
        EXECUTE 'ALTER TABLE snapshots ALTER payload SET COMPRESSION lz4';
        EXECUTE 'ALTER TABLE executions ALTER input SET COMPRESSION lz4, ALTER output SET COMPRESSION lz4';
    END IF;
EXCEPTION WHEN feature_not_supported THEN
    RAISE NOTICE 'payloads are compressed with the default method: lz4 is not built in';
END $$;

-- A coordinator lives while its row has not expired. Its shards live with it, so a heartbeat is the update of
-- one small row, however many shards it holds.
CREATE TABLE owners (
    owner text PRIMARY KEY,
    expires_at bigint NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);

CREATE TABLE shards (
    shard smallint PRIMARY KEY,
    epoch bigint NOT NULL,
    owner text
) WITH (fillfactor = 50);

-- Fails with SP001, the shard in the detail, unless all of these leases are current. The lock keeps them so to
-- the end of the transaction: who takes a shard locks its row FOR UPDATE first. Commits do not wait for each
-- other, nor for heartbeats.
CREATE FUNCTION check_leases(checked smallint[], epochs bigint[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    lost smallint;
BEGIN
    IF cardinality(checked) <> (
        SELECT count(*) FROM (
            SELECT 1 FROM unnest(checked, epochs) AS held (shard, epoch)
            JOIN shards s ON s.shard = held.shard AND s.epoch = held.epoch AND s.owner IS NOT NULL
            FOR KEY SHARE OF s
        ) AS locked
    ) THEN
        SELECT held.shard INTO lost FROM unnest(checked, epochs) AS held (shard, epoch)
        WHERE NOT EXISTS (
            SELECT FROM shards s
            WHERE s.shard = held.shard AND s.epoch = held.epoch AND s.owner IS NOT NULL
        )
        LIMIT 1;
        RAISE EXCEPTION 'a lease is not current' USING ERRCODE = 'SP001', DETAIL = coalesce(lost, checked[1])::text;
    END IF;
END $$;

-- The heartbeat of a coordinator; see Store::lease.
CREATE FUNCTION take_leases(
    caller text, ttl_millis bigint, shard_count int,
    OUT leased smallint[], OUT epochs bigint[], OUT fair_share int
) LANGUAGE plpgsql AS $$
DECLARE
    now_millis bigint;
    held int;
BEGIN
    -- One coordinator at a time. Nothing below waits for another lock, so this one is short.
    PERFORM pg_advisory_xact_lock(hashtextextended('stagepost.leases.' || current_schema(), 0));
    now_millis := (extract(epoch FROM clock_timestamp()) * 1000)::bigint;

    -- Also the caller, if it comes too late: its shards are then taken anew, with another epoch.
    DELETE FROM owners o WHERE o.expires_at <= now_millis;
    UPDATE shards s SET owner = NULL
    WHERE s.owner IS NOT NULL AND NOT EXISTS (SELECT FROM owners o WHERE o.owner = s.owner);

    INSERT INTO owners AS o (owner, expires_at) VALUES (caller, now_millis + ttl_millis)
    ON CONFLICT (owner) DO UPDATE SET expires_at = excluded.expires_at;
    IF (SELECT count(*) FROM shards s WHERE s.shard < shard_count) < shard_count THEN
        INSERT INTO shards (shard, epoch) SELECT n, 0 FROM generate_series(0, shard_count - 1) AS n
        ON CONFLICT DO NOTHING;
    END IF;

    SELECT (shard_count + count(*) - 1) / count(*) INTO fair_share FROM owners;
    SELECT count(*) INTO held FROM shards s WHERE s.owner = caller AND s.shard < shard_count;
    IF held < fair_share THEN
        -- A shard whose last owner is just committing is passed over; it is free at the next heartbeat.
        UPDATE shards s SET owner = caller, epoch = s.epoch + 1
        WHERE s.shard IN (
            SELECT f.shard FROM shards f WHERE f.owner IS NULL AND f.shard < shard_count
            ORDER BY f.shard LIMIT fair_share - held FOR UPDATE SKIP LOCKED
        );
    END IF;
    SELECT coalesce(array_agg(s.shard ORDER BY s.shard), '{}'), coalesce(array_agg(s.epoch ORDER BY s.shard), '{}')
    INTO leased, epochs
    FROM shards s WHERE s.owner = caller AND s.shard < shard_count;
END $$;

-- Gives shards back; NULL: all of them, and the membership.
CREATE FUNCTION release_leases(caller text, released smallint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('stagepost.leases.' || current_schema(), 0));
    UPDATE shards s SET owner = NULL
    WHERE s.owner = caller AND (released IS NULL OR s.shard = ANY (released));
    IF released IS NULL THEN
        DELETE FROM owners o WHERE o.owner = caller;
    END IF;
END $$;

-- The first row of a history that ends at an event or after it: found by halving, as the events of a history
-- rise with its rows, and an index by event would cost every commit. NULL: it ends before.
CREATE FUNCTION history_row_of(execution bytea, event bigint) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    -- Rows up to `low` end before the event; the first row from `high` on does not.
    low bigint := 0;
    high bigint;
    middle bigint;
    row_sequence bigint;
    row_last bigint;
BEGIN
    SELECT h.sequence, h.last_event_id INTO high, row_last
    FROM history h WHERE h.execution_id = execution ORDER BY h.sequence DESC LIMIT 1;
    IF high IS NULL OR row_last < event THEN
        RETURN NULL;
    END IF;
    WHILE high - low > 1 LOOP
        middle := (low + high) / 2;
        SELECT h.sequence, h.last_event_id INTO row_sequence, row_last
        FROM history h WHERE h.execution_id = execution AND h.sequence >= middle ORDER BY h.sequence LIMIT 1;
        IF row_last >= event THEN
            high := middle;
        ELSE
            low := row_sequence;
        END IF;
    END LOOP;
    SELECT h.sequence INTO high
    FROM history h WHERE h.execution_id = execution AND h.sequence >= high ORDER BY h.sequence LIMIT 1;
    RETURN high;
END $$;
