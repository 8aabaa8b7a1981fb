-- What waits for an execution's end (the parent), as text that the database does not look into; and redrives.
ALTER TABLE executions ADD COLUMN parent text;
ALTER TABLE executions ADD COLUMN redrive_count integer NOT NULL DEFAULT 0;
ALTER TABLE executions ADD COLUMN redriven_at bigint;
