-- Faults of the simulated cloud that an operator has set beside those of the configuration. Each is
-- in force until its row is deleted, also after a restart. A running process notices within a second.
CREATE TABLE fault (
    -- Its kind and what it acts on, such as slow/detach. Replaces the configured fault of that name.
    name TEXT PRIMARY KEY,
    -- The fault as JSON, as the configuration has it.
    definition TEXT NOT NULL,
    since_ms INTEGER NOT NULL
) STRICT;
