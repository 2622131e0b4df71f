-- The tables of SQLite's schema. Ids and keys are compared byte by byte, as there: COLLATE "C".
CREATE TABLE task (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    -- Which workers may run it.
    pool TEXT NOT NULL,
    idempotency_key TEXT,
    task_group TEXT,
    label TEXT,
    priority BIGINT NOT NULL,
    -- Priority and age in one number: see policy.rs.
    level BIGINT NOT NULL,
    -- The deadline, or 2^63 - 1.
    due BIGINT NOT NULL,
    max_retries BIGINT NOT NULL,
    retention BIGINT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('queued', 'running', 'completed', 'failed', 'cancelled', 'expired')),
    attempts BIGINT NOT NULL,
    -- 0, or when the next attempt may start.
    not_before BIGINT NOT NULL,
    cancel_requested BOOLEAN NOT NULL,
    error TEXT,
    worker TEXT,
    -- How often the task was leased: the number that a worker must have to report.
    lease BIGINT NOT NULL,
    lease_until BIGINT,
    created BIGINT NOT NULL,
    started BIGINT,
    finished BIGINT,
    purge_at BIGINT
);

CREATE TABLE task_body (
    task TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES task (id) ON DELETE CASCADE,
    body TEXT NOT NULL
);

-- The primary key is what keeps a task from having two results, whatever a program does.
CREATE TABLE task_result (
    task TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES task (id) ON DELETE CASCADE,
    result TEXT NOT NULL
);

CREATE UNIQUE INDEX task_idempotency ON task (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- The queue. In a pool the order is that of the three that follow it; the last lets a claim pass over a task that waits without looking at it.
CREATE INDEX task_queue ON task (pool, level, due, id, not_before) WHERE status = 'queued';
CREATE INDEX task_due ON task (due) WHERE status IN ('queued', 'running');
CREATE INDEX task_lease ON task (lease_until) WHERE status = 'running';
CREATE INDEX task_backlog ON task (pool, priority, status, created) WHERE status IN ('queued', 'running');

CREATE INDEX task_by_tenant ON task (tenant, id);
CREATE INDEX task_by_group ON task (task_group, id, status) WHERE task_group IS NOT NULL;
CREATE INDEX task_purge ON task (purge_at) WHERE purge_at IS NOT NULL;

-- What is kept beside the tasks: the service knows what it means.
CREATE TABLE record (
    kind TEXT COLLATE "C" NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    tenant TEXT NOT NULL,
    value TEXT NOT NULL,
    version BIGINT NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT,
    PRIMARY KEY (kind, id)
);

CREATE INDEX record_by_tenant ON record (kind, tenant, id);
CREATE INDEX record_expires ON record (expires) WHERE expires IS NOT NULL;

-- One row: the version of all this.
CREATE TABLE queue_schema (version BIGINT NOT NULL);
INSERT INTO queue_schema (version) VALUES (1);
