//! A creation and an attachment in one write.

use super::*;

impl Fixture {
    fn launch(&mut self, n: u8, instance: &str) -> Option<Eni> {
        let tx = Tx::new(&self.conn);
        let launched = self.sim.on(&tx).launch(&create(n), &instance.into());
        launched.unwrap()
    }
}

#[test]
fn a_launch_leaves_what_its_two_calls_would() {
    let mut launched = Fixture::new(Config::default());
    let mut called = Fixture::new(Config::default());
    for n in 1..=3 {
        let instance = format!("acs-{n}");
        let eni = launched.launch(n, &instance);
        let created = called.create(n);
        called.call(&attach(&created, &instance)).unwrap();
        assert_eq!(eni, called.describe(n));
        assert_eq!(eni, launched.describe(n));
        assert_eq!(eni.map(|eni| eni.state), Some(EniState::InUse));
    }
    let counts = |cloud: &mut Fixture| {
        let mut calls = cloud.sim.take_calls();
        calls.retain(|called, _| called.action != describe(1).action());
        calls
    };
    assert_eq!(counts(&mut launched), counts(&mut called));
}

#[test]
fn a_launch_takes_nothing_that_another_eni_has_and_the_next_one_goes_on() {
    let mut cloud = Fixture::new(Config::default());
    let first = cloud.launch(1, "acs-1").unwrap();
    cloud.sim.take_calls();
    assert_eq!(cloud.launch(1, "acs-2"), None, "token and address");
    assert_eq!(cloud.launch(2, "acs-1"), None, "instance");
    assert!(cloud.sim.take_calls().is_empty(), "no call was answered");
    assert_eq!(cloud.describe(2), None);
    assert_eq!(cloud.describe(1), Some(first));
    // One by one takes the serial that a launch would have tried next.
    cloud.create(2);
    let third = cloud.launch(3, "acs-3");
    assert_eq!(third, cloud.describe(3));
    assert!(third.is_some());
}

#[test]
fn only_an_instant_cloud_launches() {
    let mut cloud = Fixture::new(slow_by_a_second());
    assert_eq!(cloud.launch(1, "acs-1"), None);
    assert_eq!(cloud.describe(1), None);
}
