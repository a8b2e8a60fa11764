-- What the history needs so that a checker can judge it alone, and steps that the schema refuses.
-- Spans and claim events are complete without it; who the pods were, when ENIs ended, how large
-- the pool was and what kept the program from ending a retention are added here.

-- Every pod that was accepted, as it was then. Outlives the row in `pod`.
CREATE TABLE pod_log (
  uid TEXT PRIMARY KEY,
  cluster TEXT NOT NULL,
  namespace TEXT NOT NULL,
  name TEXT NOT NULL,
  node TEXT NOT NULL,
  node_type TEXT NOT NULL,
  zone TEXT NOT NULL,
  hours INTEGER,                         -- retention asked for; NULL: ordinary
  vswitches TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  accepted_ms INTEGER NOT NULL,
  deleted_ms INTEGER,                    -- NULL until it has let go, and when nobody saw the deletion
  let_go_ms INTEGER                      -- gone from the API and detached; NULL: not yet
) STRICT, WITHOUT ROWID;
INSERT INTO pod_log
  SELECT uid, cluster, namespace, name, node, node_type, zone, hours, vswitches, created_ms, accepted_ms, NULL, NULL
  FROM pod;

-- A pod that let go and turns out to run is imported, and has not let go after all.
CREATE TRIGGER pod_accepted AFTER INSERT ON pod BEGIN
  INSERT INTO pod_log VALUES
    (new.uid, new.cluster, new.namespace, new.name, new.node, new.node_type, new.zone, new.hours,
     new.vswitches, new.created_ms, new.accepted_ms, NULL, NULL)
    ON CONFLICT (uid) DO UPDATE SET let_go_ms = NULL;
END;
CREATE TRIGGER pod_let_go AFTER DELETE ON pod BEGIN
  UPDATE pod_log SET deleted_ms = old.deleted_ms, let_go_ms = (SELECT last_ms FROM ledger)
    WHERE uid = old.uid;
END;

-- The end of every ENI: from then on the cloud was known not to have it. Its row number is not
-- given out again while it stands here.
CREATE TABLE eni_end (
  eni INTEGER PRIMARY KEY,
  vswitch INTEGER NOT NULL,
  addr INTEGER NOT NULL,
  eni_id TEXT,
  at_ms INTEGER NOT NULL
) STRICT;
CREATE TRIGGER eni_ended AFTER UPDATE OF state ON eni WHEN new.state IS NULL AND new.target = 'Gone' BEGIN
  INSERT INTO eni_end VALUES
    (new.id, new.vswitch, new.addr, new.eni_id, (SELECT last_ms FROM ledger))
    ON CONFLICT (eni) DO NOTHING;
END;
CREATE TRIGGER eni_removed BEFORE DELETE ON eni BEGIN
  SELECT RAISE(ABORT, 'an ENI that may exist is not forgotten')
    WHERE NOT EXISTS (SELECT 1 FROM eni_end WHERE eni = old.id);
END;

-- The size of the pool at every moment.
CREATE TABLE vswitch_event (
  vswitch INTEGER NOT NULL,
  at_ms INTEGER NOT NULL,
  name TEXT NOT NULL,
  zone TEXT NOT NULL,
  cidr TEXT NOT NULL,
  active INTEGER NOT NULL
) STRICT;
INSERT INTO vswitch_event
  SELECT id, (SELECT last_ms FROM ledger), name, zone, cidr, active FROM vswitch;
CREATE TRIGGER vswitch_created AFTER INSERT ON vswitch BEGIN
  INSERT INTO vswitch_event VALUES
    (new.id, (SELECT last_ms FROM ledger), new.name, new.zone, new.cidr, new.active);
END;
CREATE TRIGGER vswitch_changed AFTER UPDATE ON vswitch
  WHEN (new.zone, new.cidr, new.active) IS NOT (old.zone, old.cidr, old.active) BEGIN
  INSERT INTO vswitch_event VALUES
    (new.id, (SELECT last_ms FROM ledger), new.name, new.zone, new.cidr, new.active);
END;

-- What the program did, or could not do, beyond the rows. Written at changes only.
CREATE TABLE journal (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  at_ms INTEGER NOT NULL,                -- ledger time
  clock_ms INTEGER NOT NULL,             -- by the clock of whoever wrote it; another time after a jump
  what TEXT NOT NULL,
  detail TEXT,
  claim INTEGER,
  pod TEXT
) STRICT;
-- A ledger from before has no pods, ENIs and sizes for its past: it can be checked from here on.
INSERT INTO journal (at_ms, clock_ms, what) SELECT last_ms, last_ms, 'recording' FROM ledger;

-- The steps of an address. A row that does nothing else may lose or gain its exclusion.
CREATE TRIGGER address_step BEFORE UPDATE OF state, claim, pod, eni ON address
  WHEN (new.state, new.claim, new.pod, new.eni) IS NOT (old.state, old.claim, old.pod, old.eni) BEGIN
  SELECT RAISE(ABORT, 'an address cannot take this step')
    WHERE NOT CASE old.state || '>' || new.state
      WHEN 'free>in_use' THEN TRUE
      WHEN 'free>excluded' THEN TRUE
      WHEN 'excluded>free' THEN TRUE
      WHEN 'in_use>in_use' THEN new.claim IS NULL AND new.pod IS old.pod AND new.eni IS old.eni
      WHEN 'in_use>retained' THEN new.claim IS old.claim AND new.eni IS old.eni
      WHEN 'retained>in_use' THEN new.claim IS old.claim AND new.eni IS old.eni
      WHEN 'in_use>detaching' THEN new.eni IS old.eni
      WHEN 'retained>detaching' THEN new.eni IS old.eni
      WHEN 'detaching>free' THEN TRUE
      WHEN 'detaching>excluded' THEN TRUE
      ELSE FALSE END;
  SELECT RAISE(ABORT, 'a claimed address is given up by ending the claim')
    WHERE old.claim IS NOT NULL AND new.claim IS NULL
      AND EXISTS (SELECT 1 FROM claim WHERE id = old.claim AND closed_ms IS NULL);
  SELECT RAISE(ABORT, 'an address is not free before its ENI is deleted')
    WHERE old.state = 'detaching' AND NOT EXISTS (SELECT 1 FROM eni_end WHERE eni = old.eni);
END;

CREATE TRIGGER claim_step BEFORE UPDATE ON claim BEGIN
  SELECT RAISE(ABORT, 'a claim does not run out before its deadline')
    WHERE new.closed_why = 'expired' AND old.expires_ms > (SELECT last_ms FROM ledger);
END;
