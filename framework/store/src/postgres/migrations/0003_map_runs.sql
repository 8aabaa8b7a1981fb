-- Map Runs: what one is at a moment, as text that the database does not look into. Written with the decisions of its
-- execution, at most once per batch.
CREATE TABLE map_runs (
    account text NOT NULL,
    region text NOT NULL,
    -- The part of its ARN after `mapRun:`.
    name text COLLATE "C" NOT NULL,
    execution_id bytea NOT NULL,
    started_at bigint NOT NULL,
    record text NOT NULL,
    PRIMARY KEY (account, region, name)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX map_runs_listed ON map_runs (execution_id, started_at, name);

-- Of the child executions of Map Runs: the name of the Map Run, and how many items they process.
ALTER TABLE executions ADD COLUMN map_run text COLLATE "C", ADD COLUMN item_count bigint;

CREATE INDEX executions_of_map_runs ON executions (account, region, map_run, started_at, id)
    WHERE map_run IS NOT NULL;
