-- A step of a pod costs less. A statement that may be undone alone copies each page before it changes it, and those that
-- take a step need not be: whoever runs one that fails undoes all since a savepoint or the begin. They say OR FAIL, their
-- triggers refuse a step before a row is changed, and references that steps write are looked at by COMMIT. Of these the
-- triggers say at once what the address of a pod must refer to.

-- Done as the documentation of ALTER TABLE has it for constraints that no stored row contradicts ("Making Other Kinds Of
-- Table Schema Changes").
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(replace(sql,
  'REFERENCES claim,', 'REFERENCES claim DEFERRABLE INITIALLY DEFERRED,'),
  'REFERENCES eni,', 'REFERENCES eni DEFERRABLE INITIALLY DEFERRED,')
  WHERE type = 'table' AND name IN ('address', 'pod');
PRAGMA writable_schema = RESET;

DROP TRIGGER address_step;
CREATE TRIGGER address_step BEFORE UPDATE OF state, claim, pod, eni ON address BEGIN
  SELECT RAISE(FAIL, 'address changed without a new generation, or back in time')
    WHERE new.gen <> old.gen + 1 OR new.since_ms < old.since_ms;
  SELECT RAISE(FAIL, 'an address cannot take this step')
    WHERE (new.state, new.claim, new.pod, new.eni) IS NOT (old.state, old.claim, old.pod, old.eni)
    AND NOT CASE old.state || '>' || new.state
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
  SELECT RAISE(FAIL, 'a claimed address is given up by ending the claim')
    WHERE old.claim IS NOT NULL AND new.claim IS NULL
      AND EXISTS (SELECT 1 FROM claim WHERE id = old.claim AND closed_ms IS NULL);
  SELECT RAISE(FAIL, 'an address is not free before its ENI is deleted')
    WHERE old.state = 'detaching' AND new.state <> 'detaching'
      AND NOT EXISTS (SELECT 1 FROM eni_end WHERE eni = old.eni);
  SELECT RAISE(FAIL, 'an address is used by the pod that has its ENI, which is the holder of its claim')
    WHERE new.state = 'in_use' AND NOT (EXISTS (SELECT 1 FROM pod WHERE uid = new.pod AND eni = new.eni)
      AND (new.claim IS NULL OR EXISTS (SELECT 1 FROM claim WHERE id = new.claim AND holder = new.pod)));
END;

-- The open span of an address began with its last change, and needs no index to be found by.
DROP TRIGGER address_changed;
DROP INDEX address_span_open;
CREATE TRIGGER address_changed AFTER UPDATE OF state, claim, pod, eni ON address BEGIN
  UPDATE address_span SET to_ms = new.since_ms
    WHERE vswitch = old.vswitch AND addr = old.addr AND from_ms = old.since_ms AND gen = old.gen AND to_ms IS NULL;
  SELECT RAISE(ROLLBACK, 'the history of an address does not end with its row') WHERE changes() <> 1;
  INSERT INTO address_span VALUES
    (new.vswitch, new.addr, new.state, new.claim, new.pod, new.eni, new.gen, new.since_ms, NULL, new.why);
END;

DROP TRIGGER claim_step;
CREATE TRIGGER claim_step BEFORE UPDATE ON claim BEGIN
  SELECT RAISE(FAIL, 'a closed claim does not change') WHERE old.closed_ms IS NOT NULL;
  SELECT RAISE(FAIL, 'a claim does not run out before its deadline')
    WHERE new.closed_why = 'expired' AND old.expires_ms > (SELECT last_ms FROM ledger);
END;

DROP TRIGGER claim_changed;
CREATE TRIGGER claim_changed AFTER UPDATE ON claim BEGIN
  INSERT INTO claim_event VALUES (new.id, (SELECT last_ms FROM ledger),
    new.holder, new.retain_ms, new.deleted_ms, new.expires_ms, new.closed_why);
END;

DROP TRIGGER eni_removed;
CREATE TRIGGER eni_removed BEFORE DELETE ON eni BEGIN
  SELECT RAISE(FAIL, 'an ENI that may exist is not forgotten')
    WHERE NOT EXISTS (SELECT 1 FROM eni_end WHERE eni = old.id);
END;
