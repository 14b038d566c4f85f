//! The last conclusive probes of an integration, and whether it flaps.

/// The last ten conclusive probes, the newest in the lowest bit; a set bit is a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recent {
    failed: u16,
    count: u8,
}

/// Number of probes that count.
const WINDOW: u8 = 10;

/// Minimum number of failed probes among them.
const FAILED: u32 = 5;

/// Minimum number of changes between passing and failing.
const CHANGES: u32 = 4;

impl Recent {
    /// Adds a probe and drops the oldest.
    #[must_use]
    pub fn with(self, passed: bool) -> Self {
        let failed = (self.failed << 1 | u16::from(!passed)) & ((1 << WINDOW) - 1);
        Self { failed, count: (self.count + 1).min(WINDOW) }
    }

    /// Whether at least five of the last ten failed, with at least four changes between pass and fail among them.
    pub fn flaps(self) -> bool {
        let pairs = u32::from(self.count.saturating_sub(1));
        let changes = (self.failed ^ (self.failed >> 1)) & ((1_u16 << pairs) - 1);
        self.failed.count_ones() >= FAILED && changes.count_ones() >= CHANGES
    }

    /// One letter per probe, the newest last: `p` or `f`.
    pub fn to_text(self) -> String {
        (0..self.count).rev().map(|bit| if self.failed >> bit & 1 == 1 { 'f' } else { 'p' }).collect()
    }

    /// Reads what [`Self::to_text`] wrote; ignores other letters.
    pub fn from_text(text: &str) -> Self {
        text.chars()
            .filter(|c| matches!(c, 'p' | 'f'))
            .fold(Self::default(), |recent, c| recent.with(c == 'p'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_flaps() {
        for (sentence, probes, flaps) in [
            ("never probed", "", false),
            ("well", "pppppppppp", false),
            ("broken", "ffffffffff", false),
            ("broken since one change", "pppppfffff", false),
            ("alternating", "pfpfpfpfpf", true),
            ("alternating from the start", "fpfpfpfpf", true),
            ("not often enough yet", "fpfpfpf", false),
            ("four failures are too few", "pfpfpfpfpp", false),
            ("three changes are too few", "ppfffffppf", false),
            ("four are enough", "pffpfffppp", true),
            ("old probes do not count", "fpfpfpfpfppppppppppp", false),
        ] {
            assert_eq!(Recent::from_text(probes).flaps(), flaps, "{sentence}");
        }
        assert_eq!(Recent::from_text("xpfpfpfpfpfpf").to_text(), "fpfpfpfpfpf"[1..].to_owned());
    }
}
