-- +goose Up
-- Ids are TEXT and compared byte for byte. Times are milliseconds since 1970 in
-- UTC, 0 for never. Truth values are 0 and 1. Numbered alike in both dialects.

CREATE TABLE meta (
	id            BIGINT  PRIMARY KEY CHECK (id = 1),
	controller    TEXT COLLATE "C" NOT NULL DEFAULT '',
	born          BIGINT  NOT NULL DEFAULT 0,
	seal_key      TEXT COLLATE "C" NOT NULL DEFAULT '',
	probed        BIGINT  NOT NULL DEFAULT 0
);
INSERT INTO meta (id) VALUES (1);

-- One row per run of the program: when this store was alive under its eyes.
CREATE TABLE controllers (
	incarnation   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	started       BIGINT  NOT NULL,
	seen          BIGINT  NOT NULL
);

CREATE TABLE pools (
	name          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	driver        TEXT COLLATE "C" NOT NULL,
	scope         TEXT COLLATE "C" NOT NULL,
	min           BIGINT  NOT NULL,
	max           BIGINT  NOT NULL,
	spec_hash     TEXT COLLATE "C" NOT NULL,
	last_spec     TEXT COLLATE "C" NOT NULL,
	platform      TEXT COLLATE "C" NOT NULL,
	retired       BIGINT  NOT NULL DEFAULT 0,
	counted       BIGINT  NOT NULL DEFAULT 0 CHECK (counted >= 0),
	holder        TEXT COLLATE "C" NOT NULL DEFAULT '',
	generation    BIGINT  NOT NULL DEFAULT 0,
	held_until    BIGINT  NOT NULL DEFAULT 0,
	breaker       TEXT COLLATE "C" NOT NULL DEFAULT '',
	updated       BIGINT  NOT NULL
);

-- bound is 1 while the lease in lease_id holds the machine.
CREATE TABLE instances (
	id               TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	name             TEXT COLLATE "C" NOT NULL UNIQUE,
	pool             TEXT COLLATE "C" NOT NULL REFERENCES pools (name),
	driver           TEXT COLLATE "C" NOT NULL,
	scope            TEXT COLLATE "C" NOT NULL,
	state            TEXT COLLATE "C" NOT NULL,
	kind             TEXT COLLATE "C" NOT NULL,
	variant          TEXT COLLATE "C" NOT NULL,
	tenant           TEXT COLLATE "C" NOT NULL,
	shape            TEXT COLLATE "C" NOT NULL,
	recipe           TEXT COLLATE "C" NOT NULL,
	os               TEXT COLLATE "C" NOT NULL,
	arch             TEXT COLLATE "C" NOT NULL,
	image            TEXT COLLATE "C" NOT NULL,
	machine_type     TEXT COLLATE "C" NOT NULL,
	zone             TEXT COLLATE "C" NOT NULL,
	disk_gib         BIGINT  NOT NULL,
	cloud_id         TEXT COLLATE "C" NOT NULL,
	address          TEXT COLLATE "C" NOT NULL,
	port             BIGINT  NOT NULL,
	agent_version    TEXT COLLATE "C" NOT NULL,
	storage_id       TEXT COLLATE "C" NOT NULL,
	lease_id         TEXT COLLATE "C" NOT NULL,
	lease_generation BIGINT  NOT NULL,
	cold             BIGINT  NOT NULL,
	created          BIGINT  NOT NULL,
	since            BIGINT  NOT NULL,
	due              BIGINT  NOT NULL,
	deadline         BIGINT  NOT NULL,
	warmed           BIGINT  NOT NULL,
	attempts         BIGINT  NOT NULL,
	reason           TEXT COLLATE "C" NOT NULL,
	detail           TEXT COLLATE "C" NOT NULL,
	held             BIGINT  NOT NULL,
	disks            BIGINT  NOT NULL,
	bound            BIGINT  NOT NULL
);
-- The claim: the oldest warm machine of a shape. Life and zone are read from
-- the index too, so that machines that do not fit cost no look at their rows.
CREATE INDEX instances_warm  ON instances (pool, shape, created, id, deadline, zone) WHERE state = 'warm';
CREATE INDEX instances_due   ON instances (pool, due, id) WHERE state <> 'gone';
CREATE INDEX instances_group ON instances (pool, state, variant, tenant, shape, recipe) WHERE bound = 0 AND state <> 'gone';
CREATE INDEX instances_lease ON instances (lease_id) WHERE lease_id <> '';
CREATE INDEX instances_made  ON instances (created, id);
CREATE INDEX instances_gone  ON instances (since) WHERE state = 'gone';

-- Identities lie apart, so that a transition does not write them again. They
-- are sealed, written with the intent and deleted when the machine is gone.
CREATE TABLE identities (
	instance_id   TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES instances (id) ON DELETE CASCADE,
	sealed        BYTEA   NOT NULL
);

-- seq is the order of arrival. need_until, no_claim and start_ms are what the
-- setup said beside the lease: the least deadline of a machine that fits, that
-- only a machine of its own will do, and how long starting may take.
CREATE TABLE leases (
	seq           BIGINT  PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
	id            TEXT COLLATE "C" NOT NULL,
	generation    BIGINT  NOT NULL,
	kind          TEXT COLLATE "C" NOT NULL,
	state         TEXT COLLATE "C" NOT NULL,
	waiter        TEXT COLLATE "C" NOT NULL,
	want          TEXT COLLATE "C" NOT NULL,
	choices       TEXT COLLATE "C" NOT NULL,
	pool          TEXT COLLATE "C" NOT NULL,
	instance_id   TEXT COLLATE "C" NOT NULL,
	arrived       BIGINT  NOT NULL,
	claimed       BIGINT  NOT NULL,
	activated     BIGINT  NOT NULL,
	ended         BIGINT  NOT NULL,
	last_call     BIGINT  NOT NULL,
	wait_until    BIGINT  NOT NULL,
	due           BIGINT  NOT NULL,
	digest        TEXT COLLATE "C" NOT NULL,
	causes        TEXT COLLATE "C" NOT NULL,
	reason        TEXT COLLATE "C" NOT NULL,
	detail        TEXT COLLATE "C" NOT NULL,
	no_claim      BIGINT  NOT NULL,
	need_until    BIGINT  NOT NULL,
	start_ms      BIGINT  NOT NULL,
	exported      BIGINT  NOT NULL,
	UNIQUE (id, generation)
);
CREATE INDEX leases_due    ON leases (due, seq) WHERE state NOT IN ('ended', 'lost');
CREATE INDEX leases_waiter ON leases (waiter) WHERE waiter <> '';
CREATE INDEX leases_final  ON leases (ended) WHERE state IN ('ended', 'lost');

-- What a lease waits for, while it waits and somebody waits for it.
CREATE TABLE lease_choices (
	pool          TEXT COLLATE "C" NOT NULL,
	seq           BIGINT  NOT NULL REFERENCES leases (seq) ON DELETE CASCADE,
	ord           BIGINT  NOT NULL,
	shape         TEXT COLLATE "C" NOT NULL,
	zone          TEXT COLLATE "C" NOT NULL,
	no_claim      BIGINT  NOT NULL,
	need_until    BIGINT  NOT NULL,
	PRIMARY KEY (pool, seq, ord)
);
CREATE INDEX lease_choices_match ON lease_choices (pool, shape, no_claim, seq, need_until, zone);
CREATE INDEX lease_choices_seq   ON lease_choices (seq);

-- Exported variables; the values are sealed.
CREATE TABLE lease_env (
	seq           BIGINT  NOT NULL REFERENCES leases (seq) ON DELETE CASCADE,
	name          TEXT COLLATE "C" NOT NULL,
	value         BYTEA    NOT NULL,
	updated       BIGINT  NOT NULL,
	PRIMARY KEY (seq, name)
);

CREATE TABLE events (
	id            BIGINT  PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
	at            BIGINT  NOT NULL,
	pool          TEXT COLLATE "C" NOT NULL,
	instance      TEXT COLLATE "C" NOT NULL,
	lease         TEXT COLLATE "C" NOT NULL,
	generation    BIGINT  NOT NULL,
	reason        TEXT COLLATE "C" NOT NULL,
	message       TEXT COLLATE "C" NOT NULL
);
CREATE INDEX events_at       ON events (at);
CREATE INDEX events_pool     ON events (pool, id) WHERE pool <> '';
CREATE INDEX events_instance ON events (instance, id) WHERE instance <> '';
CREATE INDEX events_lease    ON events (lease, id) WHERE lease <> '';

-- Destroys that came before their setup. seq orders and bounds them.
CREATE TABLE tombstones (
	seq           BIGINT  PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
	lease_id      TEXT COLLATE "C" NOT NULL UNIQUE,
	until         BIGINT  NOT NULL
);
CREATE INDEX tombstones_until ON tombstones (until);

-- Disks outlive machines.
CREATE TABLE disks (
	scope         TEXT COLLATE "C" NOT NULL,
	name          TEXT COLLATE "C" NOT NULL,
	zone          TEXT COLLATE "C" NOT NULL,
	pool          TEXT COLLATE "C" NOT NULL,
	lease_id      TEXT COLLATE "C" NOT NULL,
	attached_to   TEXT COLLATE "C" NOT NULL,
	size_gib      BIGINT  NOT NULL,
	created       BIGINT  NOT NULL,
	seen          BIGINT  NOT NULL,
	PRIMARY KEY (scope, zone, name)
);

CREATE TABLE zone_health (
	pool          TEXT COLLATE "C" NOT NULL,
	zone          TEXT COLLATE "C" NOT NULL,
	machine_type  TEXT COLLATE "C" NOT NULL,
	failures      BIGINT  NOT NULL,
	closed_until  BIGINT  NOT NULL,
	kind          TEXT COLLATE "C" NOT NULL,
	detail        TEXT COLLATE "C" NOT NULL,
	updated       BIGINT  NOT NULL,
	PRIMARY KEY (pool, zone, machine_type)
);

-- Machine time per pool and day, for caps and reports.
CREATE TABLE usage (
	pool          TEXT COLLATE "C" NOT NULL,
	day           TEXT COLLATE "C" NOT NULL,
	created       BIGINT  NOT NULL,
	machine_ms    BIGINT  NOT NULL,
	PRIMARY KEY (pool, day)
);
