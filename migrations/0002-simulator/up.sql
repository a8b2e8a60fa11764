-- The simulated cloud's own memory. It is written apart from the ledger's tables, as a real cloud
-- would be, so that intent and outcome can differ after a crash. Nothing refers to it.

-- The ENIs that exist. A deleted one has no row.
CREATE TABLE sim_eni (
    -- AUTOINCREMENT, so that it is never used twice: id and MAC are derived from it.
    serial INTEGER PRIMARY KEY AUTOINCREMENT,
    -- ClientToken of the creation.
    token TEXT NOT NULL UNIQUE,
    eni_id TEXT NOT NULL UNIQUE,
    mac TEXT NOT NULL UNIQUE,
    vswitch TEXT NOT NULL,
    zone TEXT NOT NULL,
    -- Primary private address. An ENI that is being deleted still has it.
    address TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL CHECK (state IN ('Available', 'Attaching', 'InUse', 'Detaching', 'Deleting')),
    -- What it is attached to, being attached to or being detached from.
    -- UNIQUE: a container instance has one ENI.
    instance TEXT UNIQUE,
    -- When the transition under way is through; NULL at rest, and in a transition that is stuck.
    until_ms INTEGER,
    CHECK ((instance IS NOT NULL) = (state IN ('Attaching', 'InUse', 'Detaching'))),
    CHECK (until_ms IS NULL OR state IN ('Attaching', 'Detaching', 'Deleting'))
) STRICT;
