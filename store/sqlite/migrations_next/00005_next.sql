-- +goose Up
-- A next version as a test imagines it: columns with defaults, a table and an
-- index, so that this version goes on working beside it. Only programs built
-- with the tag nextschema have it. Its number is always the one after the newest
-- real migration.
ALTER TABLE instances ADD COLUMN next_note TEXT    NOT NULL DEFAULT '';
ALTER TABLE leases    ADD COLUMN next_rank INTEGER NOT NULL DEFAULT 7;
CREATE TABLE next_notes (
	instance_id   TEXT    NOT NULL PRIMARY KEY REFERENCES instances (id) ON DELETE CASCADE,
	note          TEXT    NOT NULL
) STRICT;
CREATE INDEX leases_next ON leases (next_rank, seq) WHERE next_rank <> 7;
