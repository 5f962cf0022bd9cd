-- +goose Up
-- Gates, flavours, operators' overrides and hibernated machines. Every new
-- column has a default, so that a runner of version 1 that still works on the
-- database goes on; what it does not count, Recount repairs.

-- restored is when the store was last made of a copy, copied when that copy was.
ALTER TABLE meta ADD COLUMN restored BIGINT  NOT NULL DEFAULT 0;
ALTER TABLE meta ADD COLUMN copied   BIGINT  NOT NULL DEFAULT 0;

-- recipes, gate and override are JSON, empty for none. begun is how many
-- machines were begun in the given minute since 1970, flavours how many rows the
-- pool has in the table of that name.
ALTER TABLE pools ADD COLUMN recipes    TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE pools ADD COLUMN per_minute BIGINT  NOT NULL DEFAULT 0;
ALTER TABLE pools ADD COLUMN minute     BIGINT  NOT NULL DEFAULT 0;
ALTER TABLE pools ADD COLUMN begun      BIGINT  NOT NULL DEFAULT 0;
ALTER TABLE pools ADD COLUMN flavours   BIGINT  NOT NULL DEFAULT 0;
ALTER TABLE pools ADD COLUMN gate       TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE pools ADD COLUMN override   TEXT COLLATE "C" NOT NULL DEFAULT '';

-- The machines of one tenant's variant, counted as the pool's are. max is -1
-- for no limit of its own.
CREATE TABLE flavours (
	pool          TEXT COLLATE "C" NOT NULL REFERENCES pools (name),
	tenant        TEXT COLLATE "C" NOT NULL,
	variant       TEXT COLLATE "C" NOT NULL,
	max           BIGINT  NOT NULL,
	counted       BIGINT  NOT NULL DEFAULT 0 CHECK (counted >= 0),
	PRIMARY KEY (pool, tenant, variant)
);

ALTER TABLE lease_choices ADD COLUMN tenant  TEXT COLLATE "C" NOT NULL DEFAULT 'default';
ALTER TABLE lease_choices ADD COLUMN variant TEXT COLLATE "C" NOT NULL DEFAULT 'default';
CREATE INDEX lease_choices_flavour ON lease_choices (pool, tenant, variant, seq);

-- The claim: the oldest warm machine of a shape, else the oldest hibernated one.
DROP INDEX instances_warm;
CREATE INDEX instances_free  ON instances (pool, shape, state DESC, created, id, deadline, zone, held)
	WHERE state IN ('warm', 'hibernated') AND held = 0;
-- What machines have cost that are gone.
CREATE INDEX instances_spent ON instances (pool, since, created) WHERE state = 'gone';
