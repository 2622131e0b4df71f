//! A pickle machine that builds a graph of plain objects and calls nothing.
//!
//! Opcodes: the comments of CPython's `Lib/pickletools.py`. Objects live in one arena and refer to each other by index, so a reference costs
//! four bytes however large its target (no "billion laughs") and dropping the graph does not recurse. The one opcode that joins
//! texts takes short ones only ([`MAX_GLOBAL_BYTES`]).

/// Longest `module.name`; the few that a state dict has are below 40 bytes. Its parts can be referred to again and again, each time
/// making a new text.
const MAX_GLOBAL_BYTES: usize = 256;

/// Index of an object in [`Objects`].
pub(super) type Id = u32;

/// An unpickled object.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Object {
    None,
    Bool(bool),
    Int(i64),
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// `module.name`
    Global(String),
    /// A call that was asked for and not made.
    Call {
        callable: Id,
        args: Id,
    },
    /// A reference to something outside the pickle: a storage.
    Persistent(Id),
    /// Anything a state dict has no use for.
    Opaque,
}

/// The result: an arena and the object left on the stack.
#[derive(Debug)]
pub(super) struct Objects {
    arena: Vec<Object>,
    pub(super) root: Id,
}

impl Objects {
    pub(super) fn get(&self, id: Id) -> &Object {
        self.arena.get(id as usize).unwrap_or(&Object::Opaque)
    }
}

/// Why a pickle could not be read.
#[derive(Debug)]
pub(super) struct PickleError {
    pub(super) position: usize,
    pub(super) expected: String,
    pub(super) found: String,
}

/// Reads a pickle up to its STOP.
pub(super) fn run(program: &[u8]) -> Result<Objects, PickleError> {
    let mut machine = Machine {
        program,
        position: 0,
        arena: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
    };
    loop {
        let opcode = machine.byte()?;
        if opcode == b'.' {
            let root = machine.pop()?;
            return Ok(Objects {
                arena: machine.arena,
                root,
            });
        }
        machine.step(opcode)?;
    }
}

struct Machine<'a> {
    program: &'a [u8],
    position: usize,
    arena: Vec<Object>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: Vec<Option<Id>>,
}

impl Machine<'_> {
    /// Executes one opcode. Each adds at most one object, so the arena is no longer than the program.
    fn step(&mut self, opcode: u8) -> Result<(), PickleError> {
        match opcode {
            0x80 => self.take(1).map(drop),         // PROTO
            0x95 => self.take(8).map(drop),         // FRAME
            b'N' => self.push(Object::None),        // NONE
            0x88 => self.push(Object::Bool(true)),  // NEWTRUE
            0x89 => self.push(Object::Bool(false)), // NEWFALSE
            b'K' | b'M' | b'J' | 0x8a => self.integer(opcode),
            b'G' => {
                self.take(8)?; // BINFLOAT
                self.push(Object::Opaque)
            }
            b'X' | 0x8c | 0x8d | b'U' | b'T' => self.text(opcode),
            b'C' | b'B' => self.bytes(opcode),
            b'}' => self.push(Object::Dict(Vec::new())), // EMPTY_DICT
            b']' => self.push(Object::List(Vec::new())), // EMPTY_LIST
            b')' => self.push(Object::Tuple(Vec::new())), // EMPTY_TUPLE
            0x8f => self.push(Object::Opaque),           // EMPTY_SET
            b'(' => {
                self.marks.push(self.stack.len()); // MARK
                Ok(())
            }
            b't' | b'd' | b'l' | 0x91 | 0x90 | b'1' => self.consume_to_mark(opcode),
            0x85..=0x87 => self.small_tuple(usize::from(opcode - 0x84)),
            b's' | b'u' => self.set_items(opcode),
            b'a' | b'e' => self.append(opcode),
            b'c' | 0x93 => self.global(opcode),
            b'R' | 0x81 => self.call(),   // REDUCE, NEWOBJ
            b'b' => self.pop().map(drop), // BUILD: attributes set on an object; a state dict's are module versions
            b'Q' => {
                let id = self.pop()?; // BINPERSID
                self.push(Object::Persistent(id))
            }
            b'q' | b'r' | 0x94 => self.memoize(opcode),
            b'h' | b'j' => self.recall(opcode),
            b'0' => self.pop().map(drop),                     // POP
            b'2' => self.top().map(|id| self.stack.push(id)), // DUP
            other => Err(self.error(
                "an opcode of protocol 2 to 4 that a state dict needs",
                format!("{other:#04x}"),
            )),
        }
    }

    fn integer(&mut self, opcode: u8) -> Result<(), PickleError> {
        let len = match opcode {
            b'K' => 1,                      // BININT1
            b'M' => 2,                      // BININT2
            b'J' => 4,                      // BININT
            _ => usize::from(self.byte()?), // LONG1
        };
        let bytes = self.take(len)?;
        let mut wide = [0; 8];
        let Some(low) = wide.get_mut(..len) else {
            return Err(self.error("an integer of at most 8 bytes", format!("{len} bytes")));
        };
        low.copy_from_slice(bytes);
        let mut value = i64::from_le_bytes(wide);
        if !matches!(opcode, b'K' | b'M') && (1..8).contains(&len) {
            let shift = 64 - 8 * len; // BININT and LONG1 are two's complement
            value = value << shift >> shift;
        }
        self.push(Object::Int(value))
    }

    fn text(&mut self, opcode: u8) -> Result<(), PickleError> {
        let len = match opcode {
            0x8c | b'U' => usize::from(self.byte()?), // SHORT_BINUNICODE, SHORT_BINSTRING
            0x8d => self.length::<8>()?,              // BINUNICODE8
            _ => self.length::<4>()?,                 // BINUNICODE, BINSTRING
        };
        let text = String::from_utf8_lossy(self.take(len)?).into_owned();
        self.push(Object::Text(text))
    }

    fn bytes(&mut self, opcode: u8) -> Result<(), PickleError> {
        let len = if opcode == b'C' {
            usize::from(self.byte()?)
        } else {
            self.length::<4>()?
        };
        self.take(len)?;
        self.push(Object::Opaque)
    }

    /// Opcodes that consume everything above the last mark.
    fn consume_to_mark(&mut self, opcode: u8) -> Result<(), PickleError> {
        let items = self.pop_to_mark()?;
        match opcode {
            b't' => self.push(Object::Tuple(items)),
            b'l' => self.push(Object::List(items)),
            b'd' => {
                let pairs = self.pairs(&items)?;
                self.push(Object::Dict(pairs))
            }
            0x91 => self.push(Object::Opaque), // FROZENSET
            _ => Ok(()),                       // ADDITEMS, POP_MARK
        }
    }

    fn small_tuple(&mut self, len: usize) -> Result<(), PickleError> {
        let start = self.floor_checked(len)?;
        let items = self.stack.split_off(start);
        self.push(Object::Tuple(items))
    }

    fn set_items(&mut self, opcode: u8) -> Result<(), PickleError> {
        let items = if opcode == b's' {
            let start = self.floor_checked(2)?;
            self.stack.split_off(start)
        } else {
            self.pop_to_mark()?
        };
        let mut pairs = self.pairs(&items)?;
        let target = self.top()?;
        match self.arena.get_mut(target as usize) {
            Some(Object::Dict(entries)) => {
                entries.append(&mut pairs);
                Ok(())
            }
            Some(Object::Opaque | Object::Call { .. }) => Ok(()),
            _ => Err(self.error("a dict to set items of", "another object".into())),
        }
    }

    fn append(&mut self, opcode: u8) -> Result<(), PickleError> {
        let mut items = if opcode == b'a' {
            vec![self.pop()?]
        } else {
            self.pop_to_mark()?
        };
        let target = self.top()?;
        match self.arena.get_mut(target as usize) {
            Some(Object::List(list)) => {
                list.append(&mut items);
                Ok(())
            }
            Some(Object::Opaque | Object::Call { .. }) => Ok(()),
            _ => Err(self.error("a list to append to", "another object".into())),
        }
    }

    fn global(&mut self, opcode: u8) -> Result<(), PickleError> {
        let (module, name) = if opcode == b'c' {
            (self.line()?, self.line()?) // GLOBAL
        } else {
            let (name, module) = (self.pop()?, self.pop()?); // STACK_GLOBAL
            match (
                self.arena.get(module as usize),
                self.arena.get(name as usize),
            ) {
                (Some(Object::Text(module)), Some(Object::Text(name)))
                    if module.len() + name.len() < MAX_GLOBAL_BYTES =>
                {
                    (module.clone(), name.clone())
                }
                (Some(Object::Text(module)), Some(Object::Text(name))) => {
                    return Err(self.error(
                        &format!("a module and a name of at most {MAX_GLOBAL_BYTES} bytes"),
                        format!("{} bytes", module.len() + name.len() + 1),
                    ));
                }
                _ => {
                    return Err(
                        self.error("the texts of a module and a name", "other objects".into())
                    );
                }
            }
        };
        self.push(Object::Global(format!("{module}.{name}")))
    }

    fn call(&mut self) -> Result<(), PickleError> {
        let (args, callable) = (self.pop()?, self.pop()?);
        let is_dict = matches!(self.arena.get(callable as usize), Some(Object::Global(name)) if name == "collections.OrderedDict");
        self.push(if is_dict {
            Object::Dict(Vec::new())
        } else {
            Object::Call { callable, args }
        })
    }

    fn memoize(&mut self, opcode: u8) -> Result<(), PickleError> {
        let slot = match opcode {
            b'q' => usize::from(self.byte()?), // BINPUT
            b'r' => self.length::<4>()?,       // LONG_BINPUT
            _ => self.memo.len(),              // MEMOIZE
        };
        // Picklers number their memo from 0; a gap that no pickle of this length can fill would only cost memory.
        if slot > self.program.len() {
            return Err(self.error(
                "a memo slot below the length of the pickle",
                slot.to_string(),
            ));
        }
        let id = self.top()?;
        if slot >= self.memo.len() {
            self.memo.resize(slot + 1, None);
        }
        self.memo[slot] = Some(id);
        Ok(())
    }

    fn recall(&mut self, opcode: u8) -> Result<(), PickleError> {
        let slot = if opcode == b'h' {
            usize::from(self.byte()?)
        } else {
            self.length::<4>()?
        };
        match self.memo.get(slot).copied().flatten() {
            Some(id) => {
                self.stack.push(id);
                Ok(())
            }
            None => Err(self.error("a filled memo slot", format!("slot {slot}"))),
        }
    }

    fn pairs(&self, items: &[Id]) -> Result<Vec<(Id, Id)>, PickleError> {
        match items.as_chunks::<2>() {
            (pairs, []) => Ok(pairs.iter().map(|&[key, value]| (key, value)).collect()),
            _ => Err(self.error("keys and values in pairs", format!("{} items", items.len()))),
        }
    }

    fn push(&mut self, object: Object) -> Result<(), PickleError> {
        let id = Id::try_from(self.arena.len())
            .map_err(|_| self.error("fewer than 2^32 objects", "more".into()))?;
        self.arena.push(object);
        self.stack.push(id);
        Ok(())
    }

    /// Stack position `len` below the top, not below the last mark.
    fn floor_checked(&self, len: usize) -> Result<usize, PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(len) {
            Some(start) if start >= floor => Ok(start),
            _ => Err(self.error("something on the stack", "an empty stack".into())),
        }
    }

    fn pop(&mut self) -> Result<Id, PickleError> {
        let start = self.floor_checked(1)?;
        let id = self.stack[start];
        self.stack.truncate(start);
        Ok(id)
    }

    fn top(&self) -> Result<Id, PickleError> {
        Ok(self.stack[self.floor_checked(1)?])
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, PickleError> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => Err(self.error("a mark on the stack", "none".into())),
        }
    }

    fn byte(&mut self) -> Result<u8, PickleError> {
        Ok(self.take(1)?[0])
    }

    fn length<const N: usize>(&mut self) -> Result<usize, PickleError> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(self.take(N)?);
        usize::try_from(u64::from_le_bytes(wide))
            .map_err(|_| self.error("a length", "one beyond memory".into()))
    }

    fn line(&mut self) -> Result<String, PickleError> {
        let rest = &self.program[self.position..];
        match rest.iter().position(|&byte| byte == b'\n') {
            Some(len) => {
                self.position += len + 1;
                Ok(String::from_utf8_lossy(&rest[..len]).into_owned())
            }
            None => Err(self.error("a line", "the end of the pickle".into())),
        }
    }

    fn take(&mut self, len: usize) -> Result<&[u8], PickleError> {
        if len > self.program.len() - self.position {
            return Err(self.error(
                &format!("{len} more bytes"),
                format!("{}", self.program.len() - self.position),
            ));
        }
        let start = self.position;
        self.position += len;
        Ok(&self.program[start..start + len])
    }

    fn error(&self, expected: &str, found: String) -> PickleError {
        PickleError {
            position: self.position,
            expected: expected.to_owned(),
            found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A short text, memoised in `slot` and dropped.
    fn text(slot: u8, len: usize) -> Vec<u8> {
        let mut program = vec![b'X'];
        program.extend((len as u32).to_le_bytes());
        program.extend(vec![b'a'; len]);
        program.extend([b'q', slot, b'0']);
        program
    }

    #[test]
    fn a_long_text_is_not_copied_at_every_reference() {
        // STACK_GLOBAL of slots 0 and 1, dropped: six bytes that would make a text as long as both together.
        let joined = [b'h', 0, b'h', 1, 0x93, b'0'].repeat(100);
        let program = |len| [text(0, len), text(1, len), joined.clone(), b"N.".to_vec()].concat();
        assert!(run(&program(20)).is_ok());
        let error = run(&program(20_000)).unwrap_err();
        assert!(error.expected.contains("256 bytes"), "{error:?}");
    }
}
