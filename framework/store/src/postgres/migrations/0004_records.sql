-- Documents of triggers, schedules, approvals, dead letters: few, changed by compare-and-swap on the version.
CREATE TABLE records (
    kind text COLLATE "C" NOT NULL,
    account text COLLATE "C" NOT NULL,
    region text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    -- What listings can be narrowed to.
    label text COLLATE "C" NOT NULL,
    due_at bigint,
    version bigint NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (kind, account, region, key)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX records_labelled ON records (kind, label, account, region, key);

CREATE INDEX records_due ON records (kind, due_at, account, region, key) WHERE due_at IS NOT NULL;
