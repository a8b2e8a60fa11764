//! The kubelet's pauses between tries, for containers and for images.
//!
//! Pure arithmetic (kubernetes/kubernetes, pkg/kubelet: `containerBackOff`, `imageBackOff`). Who is tried
//! again, and from when the pauses count, is decided elsewhere.

use jiff::SignedDuration;

/// The first and the longest pause before a container is started, or an image pulled, again.
const BACK_OFF: SignedDuration = SignedDuration::from_secs(10);
const BACK_OFF_MAX: SignedDuration = SignedDuration::from_secs(300);
/// How often the pause doubles, and how long those pauses are together.
const DOUBLINGS: u32 = 5;

/// The pause after `n` pauses before it.
pub(super) fn doubled(n: u32) -> SignedDuration {
    if n < DOUBLINGS {
        BACK_OFF * (1 << n)
    } else {
        BACK_OFF_MAX
    }
}

/// When an image was last tried to be pulled, counted like `age`, and the pause after that.
pub(super) fn last_pull(age: SignedDuration) -> (SignedDuration, SignedDuration) {
    let mut at = SignedDuration::ZERO;
    for n in 0..DOUBLINGS {
        let pause = doubled(n);
        if age < at + pause {
            return (at, pause);
        }
        at += pause;
    }
    let rounds = (age - at).as_secs() / BACK_OFF_MAX.as_secs();
    let past = SignedDuration::from_secs(rounds * BACK_OFF_MAX.as_secs());
    (at + past, BACK_OFF_MAX)
}

/// A duration as Go prints it.
pub(super) fn seconds(time: SignedDuration) -> String {
    let (minutes, seconds) = (time.as_secs() / 60, time.as_secs() % 60);
    if minutes == 0 {
        format!("{seconds}s")
    } else {
        format!("{minutes}m{seconds}s")
    }
}
