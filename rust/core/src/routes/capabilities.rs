//! What a model can do, as a set of bits.

/// A set of capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(u8);

/// Each capability's word, in the order of the bits.
const NAMES: [&str; 7] =
    ["completion", "tools", "thinking", "vision", "audio", "embedding", "insert"];

impl Capabilities {
    /// Every capability.
    pub const ALL: Self = Self(0b111_1111);

    /// The capabilities of these names.
    ///
    /// # Errors
    /// The first name that is none.
    pub fn from_names<Name: AsRef<str>>(
        names: impl IntoIterator<Item = Name>,
    ) -> Result<Self, Name> {
        names.into_iter().try_fold(Self::default(), |Self(bits), name| {
            match NAMES.iter().position(|known| *known == name.as_ref()) {
                Some(index) => Ok(Self(bits | 1 << index)),
                None => Err(name),
            }
        })
    }

    /// It writes text.
    pub const fn completion(self) -> bool {
        self.has(0)
    }

    /// It calls tools.
    pub const fn tools(self) -> bool {
        self.has(1)
    }

    /// It thinks before it answers.
    pub const fn thinking(self) -> bool {
        self.has(2)
    }

    /// It sees images.
    pub const fn vision(self) -> bool {
        self.has(3)
    }

    /// It hears sound.
    pub const fn audio(self) -> bool {
        self.has(4)
    }

    /// It was made to turn texts into vectors.
    pub const fn embedding(self) -> bool {
        self.has(5)
    }

    /// It fills in what is missing between two texts.
    pub const fn insert(self) -> bool {
        self.has(6)
    }

    const fn has(self, index: u8) -> bool {
        self.0 & (1 << index) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::{Capabilities, NAMES};

    #[test]
    fn each_name_is_one_capability() {
        let ask = [
            Capabilities::completion,
            Capabilities::tools,
            Capabilities::thinking,
            Capabilities::vision,
            Capabilities::audio,
            Capabilities::embedding,
            Capabilities::insert,
        ];
        for (index, name) in NAMES.iter().enumerate() {
            let only = Capabilities::from_names([*name]).expect("known");
            let told: Vec<bool> = ask.iter().map(|has| has(only)).collect();
            let expected: Vec<bool> = (0..ask.len()).map(|other| other == index).collect();
            assert_eq!(told, expected, "{name}");
        }
        assert_eq!(Capabilities::from_names(NAMES), Ok(Capabilities::ALL));
    }

    #[test]
    fn an_unknown_name_is_refused() {
        assert_eq!(Capabilities::from_names(["tools", "flying"]), Err("flying"));
    }
}
