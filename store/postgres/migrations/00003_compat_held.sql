-- +goose Up
-- Which programs may work on these tables: those whose own schema has at least
-- version compat. A migration that only adds leaves it as it is; one that takes
-- away or changes what older programs use sets it to its own version. The column
-- itself stays for ever: every older program reads it.
ALTER TABLE meta ADD COLUMN compat BIGINT  NOT NULL DEFAULT 1;
-- The planner counts machines that an operator holds apart.
DROP INDEX instances_group;
CREATE INDEX instances_group ON instances (pool, state, variant, tenant, shape, recipe, held) WHERE bound = 0 AND state <> 'gone';
