//! A pickle machine that can build one thing: a tensor. It runs no code; every other global is refused by name.

use std::collections::HashMap;
use std::rc::Rc;

use super::Storage;

/// A value's nesting; a saved Parameter has five levels. Bounds the recursion of dropping it.
const MAX_DEPTH: usize = 16;
const MAX_ITEMS: usize = 4096;

/// What the pickle says: a strided view on a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Saved {
    pub(super) storage: Storage,
    /// Name of the storage's entry.
    pub(super) key: String,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// Values are shared, so that `memo` cannot multiply them.
#[derive(Clone, Debug)]
enum Value {
    None,
    Bool,
    Int(i64),
    Text(Rc<str>),
    Tuple(Rc<Tuple>),
    /// An `OrderedDict` of hooks, whose content does not matter.
    Dict,
    Global(Global),
    Storage(Storage, Rc<str>),
    Tensor(Rc<Saved>),
    Mark,
}

#[derive(Debug)]
struct Tuple {
    items: Vec<Value>,
    depth: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Global {
    RebuildTensor,
    RebuildParameter,
    OrderedDict,
    Storage(Storage),
}

/// Runs a pickle of one tensor.
pub(super) fn load(program: &[u8]) -> Result<Saved, String> {
    Machine { rest: program, stack: Vec::new(), memo: HashMap::new() }.run()
}

struct Machine<'p> {
    rest: &'p [u8],
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
}

impl<'p> Machine<'p> {
    fn run(mut self) -> Result<Saved, String> {
        loop {
            let [op] = *self.take::<1>()?;
            match op {
                0x80 => {
                    let [version] = *self.take::<1>()?;
                    if version > 5 {
                        return Err(format!("its pickle has protocol {version}"));
                    }
                }
                0x95 => drop(self.take::<8>()?), // FRAME: the length is of no use here
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push(Value::Global(global(module, name)?))?;
                }
                0x93 => {
                    let (name, module) = (self.pop_text()?, self.pop_text()?);
                    self.push(Value::Global(global(&module, &name)?))?;
                }
                b'q' => {
                    let [at] = *self.take::<1>()?;
                    self.remember(at.into())?;
                }
                b'r' => {
                    let at = u32::from_le_bytes(*self.take::<4>()?);
                    self.remember(at)?;
                }
                0x94 => self.remember(self.memo.len() as u32)?,
                b'h' => {
                    let [at] = *self.take::<1>()?;
                    self.recall(at.into())?;
                }
                b'j' => {
                    let at = u32::from_le_bytes(*self.take::<4>()?);
                    self.recall(at)?;
                }
                b'(' => self.push(Value::Mark)?,
                b')' => self.push_tuple(Vec::new())?,
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push_tuple(items)?;
                }
                0x85..=0x87 => {
                    let at =
                        self.stack.len().checked_sub(usize::from(op - 0x84)).ok_or("its pickle's stack is empty")?;
                    let items = self.stack.split_off(at);
                    self.push_tuple(items)?;
                }
                b'}' => self.push(Value::Dict)?,
                b'N' => self.push(Value::None)?,
                0x88 | 0x89 => self.push(Value::Bool)?,
                b'K' => {
                    let [n] = *self.take::<1>()?;
                    self.push(Value::Int(n.into()))?;
                }
                b'M' => {
                    let n = u16::from_le_bytes(*self.take::<2>()?);
                    self.push(Value::Int(n.into()))?;
                }
                b'J' => {
                    let n = i32::from_le_bytes(*self.take::<4>()?);
                    self.push(Value::Int(n.into()))?;
                }
                0x8a => {
                    let [length] = *self.take::<1>()?;
                    let long = self.bytes(length.into())?;
                    self.push(Value::Int(little(long)?))?;
                }
                b'X' => {
                    let length = u32::from_le_bytes(*self.take::<4>()?);
                    self.push_text(length as usize)?;
                }
                0x8c => {
                    let [length] = *self.take::<1>()?;
                    self.push_text(length.into())?;
                }
                b'Q' => {
                    let id = self.pop()?;
                    let storage = persistent(&id)?;
                    self.push(storage)?;
                }
                b'R' => {
                    let (args, callable) = (self.pop()?, self.pop()?);
                    let built = call(&callable, &args)?;
                    self.push(built)?;
                }
                b'.' => {
                    return match self.pop()? {
                        Value::Tensor(saved) => Ok((*saved).clone()),
                        other => Err(format!("its pickle holds {}", what(&other))),
                    };
                }
                _ => return Err(format!("its pickle does what saving a tensor does not need (opcode 0x{op:02x})")),
            }
        }
    }

    fn bytes(&mut self, count: usize) -> Result<&'p [u8], String> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or("its pickle ends early")?;
        self.rest = rest;
        Ok(bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<&'p [u8; N], String> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or("its pickle ends early")?;
        self.rest = rest;
        Ok(bytes)
    }

    fn line(&mut self) -> Result<&'p str, String> {
        let end = self.rest.iter().position(|b| *b == b'\n').ok_or("its pickle ends early")?;
        let line = self.bytes(end)?;
        self.bytes(1)?;
        std::str::from_utf8(line).map_err(|why| why.to_string())
    }

    fn push(&mut self, value: Value) -> Result<(), String> {
        if self.stack.len() >= MAX_ITEMS {
            return Err("its pickle stacks too much".into());
        }
        self.stack.push(value);
        Ok(())
    }

    fn push_text(&mut self, length: usize) -> Result<(), String> {
        let text = std::str::from_utf8(self.bytes(length)?).map_err(|why| why.to_string())?;
        self.push(Value::Text(text.into()))
    }

    fn push_tuple(&mut self, items: Vec<Value>) -> Result<(), String> {
        let inner = items.iter().map(|item| if let Value::Tuple(tuple) = item { tuple.depth } else { 0 }).max();
        let depth = inner.unwrap_or(0) + 1;
        if depth > MAX_DEPTH {
            return Err("its pickle nests too deeply".into());
        }
        self.push(Value::Tuple(Rc::new(Tuple { items, depth })))
    }

    fn pop(&mut self) -> Result<Value, String> {
        self.stack.pop().ok_or_else(|| "its pickle's stack is empty".into())
    }

    fn pop_text(&mut self) -> Result<Rc<str>, String> {
        match self.pop()? {
            Value::Text(text) => Ok(text),
            other => Err(format!("its pickle has {} where a text should be", what(&other))),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.stack.iter().rposition(|value| matches!(value, Value::Mark)).ok_or("its pickle has no mark")?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn remember(&mut self, at: u32) -> Result<(), String> {
        let value = self.stack.last().ok_or("its pickle's stack is empty")?.clone();
        if self.memo.len() >= MAX_ITEMS {
            return Err("its pickle remembers too much".into());
        }
        self.memo.insert(at, value);
        Ok(())
    }

    fn recall(&mut self, at: u32) -> Result<(), String> {
        let value = self.memo.get(&at).ok_or("its pickle recalls what it never saw")?.clone();
        self.push(value)
    }
}

fn global(module: &str, name: &str) -> Result<Global, String> {
    Ok(match (module, name) {
        ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("torch", "FloatStorage") => Global::Storage(Storage::F32),
        ("torch", "HalfStorage") => Global::Storage(Storage::F16),
        ("torch", "BFloat16Storage") => Global::Storage(Storage::Bf16),
        _ => {
            let shown: String = format!("{module}.{name}").chars().take(120).collect();
            return Err(format!("its pickle wants {shown:?}, and only an f32, f16 or bf16 tensor is read"));
        }
    })
}

/// `('storage', type, key, device, count)`: what torch saves in place of a storage.
fn persistent(id: &Value) -> Result<Value, String> {
    let items = if let Value::Tuple(tuple) = id { &tuple.items[..] } else { &[] };
    let plain = |key: &str| !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    match items {
        [Value::Text(tag), Value::Global(Global::Storage(storage)), Value::Text(key), _, Value::Int(_)]
            if &**tag == "storage" && plain(key) =>
        {
            Ok(Value::Storage(*storage, key.clone()))
        }
        _ => Err("its pickle names a storage in an unknown way".into()),
    }
}

fn call(callable: &Value, args: &Value) -> Result<Value, String> {
    let (Value::Global(global), Value::Tuple(args)) = (callable, args) else {
        return Err(format!("its pickle calls {}", what(callable)));
    };
    match (global, &args.items[..]) {
        // (storage, offset, shape, strides, requires_grad, hooks[, metadata])
        (
            Global::RebuildTensor,
            [Value::Storage(storage, key), offset, shape, strides, _, _]
            | [Value::Storage(storage, key), offset, shape, strides, _, _, _],
        ) => {
            let saved = Saved {
                storage: *storage,
                key: key.to_string(),
                offset: size(offset)?,
                shape: sizes(shape)?,
                strides: sizes(strides)?,
            };
            Ok(Value::Tensor(Rc::new(saved)))
        }
        // (data, requires_grad, hooks)
        (Global::RebuildParameter, [Value::Tensor(saved), _, _]) => Ok(Value::Tensor(saved.clone())),
        (Global::OrderedDict, []) => Ok(Value::Dict),
        _ => Err("its pickle builds a tensor in an unknown way".into()),
    }
}

fn size(value: &Value) -> Result<usize, String> {
    match value {
        Value::Int(n) => usize::try_from(*n).map_err(|_| format!("{n} is not a size")),
        other => Err(format!("its pickle has {} where a size should be", what(other))),
    }
}

fn sizes(value: &Value) -> Result<Vec<usize>, String> {
    match value {
        Value::Tuple(tuple) if tuple.items.len() <= 8 => tuple.items.iter().map(size).collect(),
        other => Err(format!("its pickle has {} where a shape should be", what(other))),
    }
}

/// A little-endian two's complement number of up to eight bytes.
fn little(bytes: &[u8]) -> Result<i64, String> {
    if bytes.len() > 8 {
        return Err("its pickle has a number of more than 64 bits".into());
    }
    let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
    let mut whole = [if negative { 0xff } else { 0 }; 8];
    whole[..bytes.len()].copy_from_slice(bytes);
    Ok(i64::from_le_bytes(whole))
}

fn what(value: &Value) -> &'static str {
    match value {
        Value::None => "None",
        Value::Bool => "a truth value",
        Value::Int(_) => "a number",
        Value::Text(_) => "a text",
        Value::Tuple(_) => "a tuple",
        Value::Dict => "a dictionary",
        Value::Global(_) => "a class",
        Value::Storage(..) => "a storage",
        Value::Tensor(_) => "a tensor",
        Value::Mark => "a mark",
    }
}
