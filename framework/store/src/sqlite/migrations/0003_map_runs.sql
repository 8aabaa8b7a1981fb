-- Map Runs: what one is at a moment, as text that the database does not look into. Written with the decisions of its
-- execution, at most once per batch.
CREATE TABLE map_runs (
    account TEXT NOT NULL,
    region TEXT NOT NULL,
    -- The part of its ARN after `mapRun:`.
    name TEXT NOT NULL,
    execution_id BLOB NOT NULL,
    started_at INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (account, region, name)
) WITHOUT ROWID;

CREATE INDEX map_runs_listed ON map_runs (execution_id, started_at, name);

-- Of the child executions of Map Runs: the name of the Map Run, and how many items they process.
ALTER TABLE executions ADD COLUMN map_run TEXT;
ALTER TABLE executions ADD COLUMN item_count INTEGER;

CREATE INDEX executions_of_map_runs ON executions (account, region, map_run, started_at, id)
    WHERE map_run IS NOT NULL;
