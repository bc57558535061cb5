//! Registrations by number: a [`Token`] names a slot and the generation that filled it.
//!
//! May touch: its own memory only.
//! Invariants: a token resolves to the value that it was given for, or to nothing: a slot's
//! generation grows when its value leaves, and a slot whose generation is used up is never filled
//! again. So an event that the kernel reports late, for a registration that is gone, is refused.

#![forbid(unsafe_code)]

/// The last generation: a slot that reaches it is retired, so that no token ever comes true twice.
const GENERATION_LAST: u32 = u32::MAX;

/// The end of the list of free slots.
const NO_SLOT: u32 = u32::MAX;

/// The name of a value in a [`Slab`]: a slot and the generation of its content.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub struct Token {
    index: u32,
    generation: u32,
}

impl Token {
    /// A token that no slab gives out: backends use it for their own waker.
    pub const RESERVED: Self = Self {
        index: NO_SLOT,
        generation: GENERATION_LAST,
    };

    /// The token as one number, for a backend to carry.
    #[inline]
    #[must_use]
    pub const fn to_u64(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }

    /// The slot that it names, for tables beside a slab.
    #[inline]
    pub(crate) const fn slot(self) -> usize {
        self.index as usize
    }

    /// The token that [`Token::to_u64`] made this number of; any number is some token.
    #[inline]
    #[must_use]
    pub const fn from_u64(number: u64) -> Self {
        Self {
            index: number as u32,
            generation: (number >> 32) as u32,
        }
    }
}

#[derive(Debug)]
struct Slot<T> {
    /// Grows by one when the slot's value leaves.
    generation: u32,
    content: Content<T>,
}

#[derive(Debug)]
enum Content<T> {
    Filled(T),
    /// Names the next free slot, or `NO_SLOT`; a retired slot stands in no list.
    Free(u32),
}

/// Values named by tokens; one owner thread.
#[derive(Debug)]
pub struct Slab<T> {
    slots: Vec<Slot<T>>,
    /// Head of the list of free slots: the one freed last, whose memory is still warm.
    free: u32,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Slab<T> {
    /// An empty slab; allocates nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: NO_SLOT,
            len: 0,
        }
    }

    /// Number of values.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there is no value.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keeps `value` and returns its token. O(1); allocates only when all slots are taken.
    ///
    /// # Panics
    /// With 2^32 - 1 slots in use, which no table of descriptors reaches.
    pub fn insert(&mut self, value: T) -> Token {
        self.len += 1;
        let index = self.free;
        if let Some(slot) = self.slots.get_mut(index as usize) {
            if let Content::Free(next) = slot.content {
                self.free = next;
            }
            slot.content = Content::Filled(value);
            return Token {
                index,
                generation: slot.generation,
            };
        }
        let index = self.slots.len();
        assert!(index < NO_SLOT as usize, "the slab is full");
        self.slots.push(Slot {
            generation: 0,
            content: Content::Filled(value),
        });
        Token {
            index: index as u32,
            generation: 0,
        }
    }

    /// The value of `token`, or `None` when it has left. O(1).
    #[inline]
    #[must_use]
    pub fn get(&self, token: Token) -> Option<&T> {
        match self.slots.get(token.index as usize) {
            Some(Slot {
                generation,
                content: Content::Filled(value),
            }) if *generation == token.generation => Some(value),
            _ => None,
        }
    }

    /// The value of `token` to change, or `None` when it has left. O(1).
    #[inline]
    #[must_use]
    pub fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        match self.slots.get_mut(token.index as usize) {
            Some(Slot {
                generation,
                content: Content::Filled(value),
            }) if *generation == token.generation => Some(value),
            _ => None,
        }
    }

    /// Takes out the value of `token`; its token is stale from here on. O(1).
    pub fn remove(&mut self, token: Token) -> Option<T> {
        self.get(token)?;
        self.empty_slot(token.index)
    }

    /// Every value with its token, in slot order.
    pub fn iter(&self) -> impl Iterator<Item = (Token, &T)> {
        self.slots.iter().zip(0_u32..).filter_map(|(slot, index)| {
            let Content::Filled(value) = &slot.content else {
                return None;
            };
            let generation = slot.generation;
            Some((Token { index, generation }, value))
        })
    }

    /// Takes out every value, in slot order; all tokens given so far are stale from here on.
    pub fn drain(&mut self) -> Vec<T> {
        (0..self.slots.len() as u32)
            .filter_map(|index| self.empty_slot(index))
            .collect()
    }

    /// Empties slot `index` and makes it ready for its next generation, or retires it.
    fn empty_slot(&mut self, index: u32) -> Option<T> {
        let slot = self.slots.get_mut(index as usize)?;
        if !matches!(slot.content, Content::Filled(_)) {
            return None;
        }
        let retired = slot.generation >= GENERATION_LAST - 1;
        slot.generation = slot.generation.saturating_add(1);
        let next = if retired { NO_SLOT } else { self.free };
        if !retired {
            self.free = index;
        }
        self.len -= 1;
        match std::mem::replace(&mut slot.content, Content::Free(next)) {
            Content::Filled(value) => Some(value),
            Content::Free(_) => None,
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
