-- Who this ledger is, and the time of its last commit: ledger time never runs backwards.
CREATE TABLE ledger (
  only INTEGER PRIMARY KEY CHECK (only = 1),
  id TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  last_ms INTEGER NOT NULL,
  history_from_ms INTEGER NOT NULL       -- history is complete from here on; what was before is unknown, not "nobody"
) STRICT;

CREATE TABLE vswitch (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  zone TEXT NOT NULL,
  cidr TEXT NOT NULL,
  position INTEGER NOT NULL,             -- configuration order; breaks ties between equally free ones
  active INTEGER NOT NULL CHECK (active IN (0, 1))   -- 0: no longer configured, kept for its history
) STRICT;

-- A right to one address: (cluster, namespace, name) is its key, `holder` the UID of the pod that has it.
CREATE TABLE claim (
  id INTEGER PRIMARY KEY,
  cluster TEXT NOT NULL,
  namespace TEXT NOT NULL,
  name TEXT NOT NULL,
  node TEXT NOT NULL,                    -- of the last holder, for event texts
  holder TEXT,                           -- NULL: retained
  retain_ms INTEGER NOT NULL,            -- period of the pod whose deletion starts the clock
  opened_ms INTEGER NOT NULL,
  deleted_ms INTEGER,                    -- start of the clock: the last deletion
  expires_ms INTEGER,
  closed_ms INTEGER,
  closed_why TEXT,
  CHECK ((deleted_ms IS NULL) = (expires_ms IS NULL)),
  CHECK ((closed_ms IS NULL) = (closed_why IS NULL)),
  CHECK (closed_ms IS NULL OR holder IS NULL),
  -- A claim that nobody holds has its clock running: nothing is kept for ever by accident.
  CHECK (holder IS NOT NULL OR deleted_ms IS NOT NULL)
) STRICT;
CREATE UNIQUE INDEX claim_open ON claim (cluster, namespace, name) WHERE closed_ms IS NULL;
CREATE UNIQUE INDEX claim_holder ON claim (holder) WHERE holder IS NOT NULL;
CREATE INDEX claim_due ON claim (expires_ms)
  WHERE closed_ms IS NULL AND holder IS NULL;

-- An ENI: its state as last committed and what it should become. An intent is open while they differ.
CREATE TABLE eni (
  id INTEGER PRIMARY KEY,
  token TEXT NOT NULL UNIQUE,            -- client token of its creation
  eni_id TEXT UNIQUE,                    -- NULL until the cloud has named it
  mac TEXT UNIQUE,
  vswitch INTEGER NOT NULL REFERENCES vswitch,
  addr INTEGER NOT NULL,
  state TEXT CHECK (state IN ('Unsure', 'Available', 'Attaching', 'InUse', 'Detaching', 'Deleting')),   -- NULL: not made yet
  target TEXT NOT NULL CHECK (target IN ('InUse', 'Available', 'Gone')),
  instance TEXT,                         -- what it is or will be attached to
  UNIQUE (vswitch, addr),
  CHECK ((eni_id IS NULL) = (mac IS NULL)),
  CHECK (state IS NULL OR state = 'Unsure' OR eni_id IS NOT NULL),
  CHECK (target <> 'InUse' OR instance IS NOT NULL)
) STRICT;

-- A pod that was accepted: its annotations count as they were then. Goes when the pod is gone and detached.
CREATE TABLE pod (
  uid TEXT PRIMARY KEY,
  cluster TEXT NOT NULL,
  namespace TEXT NOT NULL,
  name TEXT NOT NULL,
  node TEXT NOT NULL,
  node_type TEXT NOT NULL CHECK (node_type IN ('acs', 'ecs')),
  zone TEXT NOT NULL,
  hours INTEGER,                         -- retention asked for; NULL: ordinary
  vswitches TEXT NOT NULL,               -- the ones it names, as JSON
  created_ms INTEGER NOT NULL,
  accepted_ms INTEGER NOT NULL,
  deleted_ms INTEGER,                    -- deletion was seen; read once, never moved
  stopped_ms INTEGER,                    -- its containers have ended
  ended_ms INTEGER,                      -- it has succeeded or failed and stays in the API
  gone_ms INTEGER,                       -- it is gone from the API
  eni INTEGER UNIQUE REFERENCES eni,     -- NULL: waiting for an address, or let go of it
  instance TEXT NOT NULL,
  request_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX pod_key ON pod (cluster, namespace, name);

CREATE TABLE address (
  vswitch INTEGER NOT NULL REFERENCES vswitch,
  addr INTEGER NOT NULL,                 -- IPv4 as a number
  state TEXT NOT NULL CHECK (state IN ('free', 'in_use', 'retained', 'detaching', 'excluded')),
  barred INTEGER NOT NULL CHECK (barred IN (0, 1)),  -- the operator excludes it: it leaves at its release
  claim INTEGER UNIQUE REFERENCES claim,
  pod TEXT UNIQUE,
  eni INTEGER UNIQUE REFERENCES eni,
  gen INTEGER NOT NULL,                  -- counts every change; fences late writers
  since_ms INTEGER NOT NULL,
  why TEXT NOT NULL,
  PRIMARY KEY (vswitch, addr),
  CHECK ((state = 'in_use') = (pod IS NOT NULL)),
  CHECK (state <> 'retained' OR claim IS NOT NULL),
  CHECK (state IN ('in_use', 'retained') OR claim IS NULL),
  CHECK ((state IN ('in_use', 'retained', 'detaching')) = (eni IS NOT NULL)),
  CHECK (state <> 'free' OR barred = 0),
  CHECK (state <> 'excluded' OR barred = 1)
) STRICT, WITHOUT ROWID;
-- Least recently used first.
CREATE INDEX address_free ON address (vswitch, since_ms, addr) WHERE state = 'free';

-- The node of the last fixed-IP pod of each key, without an address: only to name it when it crosses.
CREATE TABLE placement (
  cluster TEXT NOT NULL,
  namespace TEXT NOT NULL,
  name TEXT NOT NULL,
  node TEXT NOT NULL,
  node_type TEXT NOT NULL CHECK (node_type IN ('acs', 'ecs')),
  seen_ms INTEGER NOT NULL,
  PRIMARY KEY (cluster, namespace, name)
) STRICT, WITHOUT ROWID;

-- History, written by triggers so that no change can leave it out. Spans of one address touch and never overlap.
CREATE TABLE address_span (
  vswitch INTEGER NOT NULL,
  addr INTEGER NOT NULL,
  state TEXT NOT NULL,
  claim INTEGER,
  pod TEXT,
  eni INTEGER,
  gen INTEGER NOT NULL,
  from_ms INTEGER NOT NULL,
  to_ms INTEGER,                         -- NULL: still so
  why TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX address_span_open ON address_span (vswitch, addr) WHERE to_ms IS NULL;
CREATE INDEX address_span_at ON address_span (vswitch, addr, from_ms);

CREATE TRIGGER address_created AFTER INSERT ON address BEGIN
  INSERT INTO address_span VALUES
    (new.vswitch, new.addr, new.state, new.claim, new.pod, new.eni, new.gen, new.since_ms, NULL, new.why);
END;
CREATE TRIGGER address_changed AFTER UPDATE OF state, claim, pod, eni ON address BEGIN
  SELECT RAISE(ABORT, 'address changed without a new generation, or back in time')
    WHERE new.gen <> old.gen + 1 OR new.since_ms < old.since_ms;
  UPDATE address_span SET to_ms = new.since_ms
    WHERE vswitch = new.vswitch AND addr = new.addr AND to_ms IS NULL;
  INSERT INTO address_span VALUES
    (new.vswitch, new.addr, new.state, new.claim, new.pod, new.eni, new.gen, new.since_ms, NULL, new.why);
END;
CREATE TRIGGER address_removed AFTER DELETE ON address BEGIN
  SELECT RAISE(ABORT, 'an address that is not free cannot leave the pool')
    WHERE old.state NOT IN ('free', 'excluded');
  UPDATE address_span SET to_ms = (SELECT last_ms FROM ledger)
    WHERE vswitch = old.vswitch AND addr = old.addr AND to_ms IS NULL;
END;

CREATE TABLE claim_event (
  claim INTEGER NOT NULL,
  at_ms INTEGER NOT NULL,
  holder TEXT,
  retain_ms INTEGER NOT NULL,
  deleted_ms INTEGER,
  expires_ms INTEGER,
  closed_why TEXT
) STRICT;
CREATE INDEX claim_event_of ON claim_event (claim, at_ms);

CREATE TRIGGER claim_opened AFTER INSERT ON claim BEGIN
  INSERT INTO claim_event VALUES (new.id, (SELECT last_ms FROM ledger),
    new.holder, new.retain_ms, new.deleted_ms, new.expires_ms, new.closed_why);
END;
CREATE TRIGGER claim_changed AFTER UPDATE ON claim BEGIN
  SELECT RAISE(ABORT, 'a closed claim does not change') WHERE old.closed_ms IS NOT NULL;
  INSERT INTO claim_event VALUES (new.id, (SELECT last_ms FROM ledger),
    new.holder, new.retain_ms, new.deleted_ms, new.expires_ms, new.closed_why);
END;
