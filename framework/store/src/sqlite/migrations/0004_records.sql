-- Documents of triggers, schedules, approvals, dead letters: few, changed by compare-and-swap on the version.
CREATE TABLE records (
    kind text NOT NULL,
    account text NOT NULL,
    region text NOT NULL,
    key text NOT NULL,
    -- What listings can be narrowed to.
    label text NOT NULL,
    due_at integer,
    version integer NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (kind, account, region, key)
) WITHOUT ROWID;

CREATE INDEX records_labelled ON records (kind, label, account, region, key);

CREATE INDEX records_due ON records (kind, due_at, account, region, key) WHERE due_at IS NOT NULL;
