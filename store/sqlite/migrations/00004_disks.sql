-- +goose Up
-- What a disk is made as, whose tags it carries if not this store's, since when
-- something may be on it (0: no machine with it was ever proven), and since when
-- its owner wants it deleted (0: it is to be kept).
ALTER TABLE disks ADD COLUMN type       TEXT    NOT NULL DEFAULT '';
ALTER TABLE disks ADD COLUMN controller TEXT    NOT NULL DEFAULT '';
ALTER TABLE disks ADD COLUMN used       INTEGER NOT NULL DEFAULT 0;
ALTER TABLE disks ADD COLUMN doomed     INTEGER NOT NULL DEFAULT 0;
CREATE INDEX disks_named    ON disks (scope, name);
CREATE INDEX disks_attached ON disks (attached_to) WHERE attached_to <> '';
CREATE INDEX disks_lease    ON disks (lease_id) WHERE lease_id <> '';
