-- +goose Up
-- The planner counts machines that an operator holds apart.
DROP INDEX instances_group;
CREATE INDEX instances_group ON instances (pool, state, variant, tenant, shape, recipe, held) WHERE bound = 0 AND state <> 'gone';
