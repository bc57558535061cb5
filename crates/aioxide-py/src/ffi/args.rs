//! Parsing of vectorcall arguments for hand-written methods.
//!
//! May touch: nothing but its inputs. Raises TypeError with the texts that CPython's argument
//! clinic uses.

use pyo3_ffi as c;

use super::call::text;
use super::error::{R, Raised};
use super::object::{Obj, PyObject, Ref};

/// Named arguments that no parameter took, as (name, value).
pub type Rest<'a> = Vec<(Obj<'a>, Obj<'a>)>;

/// The arguments of one call: positional ones, then the values of the names in `kwnames`.
pub struct Args<'a> {
    values: &'a [Obj<'a>],
    positional: usize,
    kwnames: Option<Obj<'a>>,
}

/// What a method takes: parameters in order, by position or name.
pub struct Signature {
    /// The method's name, for error texts.
    pub name: &'static str,
    /// All parameters; the first `positional` of them may be given by position.
    pub params: &'static [&'static str],
    /// How many parameters may be given by position.
    pub positional: usize,
    /// How many parameters, from the first, must be given.
    pub required: usize,
}

impl<'a> Args<'a> {
    /// Wraps what a FASTCALL | KEYWORDS function received.
    ///
    /// # Safety
    /// `args` points to `nargs` positional values followed by one value per name in `kwnames`,
    /// all alive for `'a`.
    #[inline]
    pub unsafe fn new(args: *const *mut PyObject, nargs: isize, kwnames: *mut PyObject) -> Self {
        // SAFETY: by the contract.
        let kwnames = unsafe { Obj::from_nullable(kwnames) };
        // SAFETY: a tuple, alive.
        let names = kwnames.map_or(0, |names| unsafe { c::PyTuple_GET_SIZE(names.ptr()) });
        let total = (nargs + names) as usize;
        let values = if total == 0 {
            &[]
        } else {
            // SAFETY: `total` non-null pointers, and `Obj` is a transparent non-null pointer.
            unsafe { std::slice::from_raw_parts(args.cast::<Obj<'a>>(), total) }
        };
        Args {
            values,
            positional: nargs as usize,
            kwnames,
        }
    }

    /// Wraps a tuple and a dict as `tp_init` gets them, copied into `storage`.
    pub fn positional(&self) -> &'a [Obj<'a>] {
        &self.values[..self.positional]
    }

    /// Whether there are no arguments at all, which is all that a method without any asks.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The arguments, if they are `N` and all given by position.
    #[inline]
    pub fn exactly<const N: usize>(&self) -> Option<[Obj<'a>; N]> {
        if self.positional == self.values.len() {
            self.values.try_into().ok()
        } else {
            None
        }
    }

    /// The named arguments as (name, value).
    pub fn named(&self) -> impl Iterator<Item = (Obj<'a>, Obj<'a>)> + use<'a> {
        let kwnames = self.kwnames;
        let values = &self.values[self.positional..];
        values.iter().enumerate().filter_map(move |(index, value)| {
            kwnames.map(|names| (super::call::tuple_item(names, index), *value))
        })
    }

    /// Calls `callee` with the same arguments.
    pub fn pass_on(&self, callee: Obj<'_>) -> R<Ref> {
        match self.kwnames {
            Some(names) => callee.call_kw(self.values, names),
            None => callee.call(self.values),
        }
    }

    /// Whether any argument was passed by name.
    pub fn has_named(&self) -> bool {
        self.kwnames.is_some() && self.values.len() > self.positional
    }

    /// Binds the arguments to the parameters of `signature`.
    pub fn bind<const N: usize>(&self, signature: &Signature) -> R<[Option<Obj<'a>>; N]> {
        debug_assert_eq!(N, signature.params.len());
        let mut bound = [None; N];
        if self.positional > signature.positional {
            return Err(signature.too_many(self.positional));
        }
        for (slot, value) in bound.iter_mut().zip(self.positional()) {
            *slot = Some(*value);
        }
        for (name, value) in self.named() {
            let index = signature.index_of(name)?;
            if bound[index].is_some() {
                return Err(signature.given_twice(index));
            }
            bound[index] = Some(value);
        }
        match bound[..signature.required].iter().position(Option::is_none) {
            Some(missing) => Err(signature.missing(missing)),
            None => Ok(bound),
        }
    }

    /// As `bind`, for what asyncio writes in Python: with the texts of Python functions. A method's
    /// name has a dot in it; its `self` is counted where Python counts it.
    pub fn bind_python<const N: usize>(&self, signature: &Signature) -> R<[Option<Obj<'a>>; N]> {
        debug_assert_eq!(N, signature.params.len());
        let mut bound = [None; N];
        for (slot, value) in bound.iter_mut().zip(self.positional()) {
            *slot = Some(*value);
        }
        for (name, value) in self.named() {
            let index = signature.index_of(name)?;
            if bound[index].is_some() {
                return Err(signature.python_given_twice(index));
            }
            bound[index] = Some(value);
        }
        if self.positional > signature.positional {
            return Err(signature.python_too_many(self.positional));
        }
        if bound[..signature.required].iter().any(Option::is_none) {
            return Err(signature.python_missing(&bound));
        }
        Ok(bound)
    }

    /// Splits the named arguments into the parameters named here and the rest.
    pub fn keyword<const N: usize>(
        &self,
        params: [&str; N],
    ) -> R<([Option<Obj<'a>>; N], Rest<'a>)> {
        let mut bound = [None; N];
        let mut rest = Vec::new();
        'named: for (name, value) in self.named() {
            for (slot, param) in bound.iter_mut().zip(params) {
                if is_name(name, param) {
                    *slot = Some(value);
                    continue 'named;
                }
            }
            rest.push((name, value));
        }
        Ok((bound, rest))
    }
}

impl Signature {
    fn index_of(&self, name: Obj<'_>) -> R<usize> {
        match self.params.iter().position(|param| is_name(name, param)) {
            Some(index) => Ok(index),
            None => Err(unexpected_keyword(self.name, name)),
        }
    }

    #[cold]
    fn too_many(&self, given: usize) -> Raised {
        let (name, most) = (self.name, self.positional);
        let exact = if self.required == most {
            "exactly"
        } else {
            "at most"
        };
        let plural = if most == 1 { "" } else { "s" };
        Raised::type_error(&format!(
            "{name}() takes {exact} {most} positional argument{plural} ({given} given)"
        ))
    }

    #[cold]
    fn given_twice(&self, index: usize) -> Raised {
        Raised::type_error(&format!(
            "argument for {}() given by name ('{}') and position ({})",
            self.name,
            self.params[index],
            index + 1
        ))
    }

    #[cold]
    fn missing(&self, index: usize) -> Raised {
        Raised::type_error(&format!(
            "{}() missing required argument '{}' (pos {})",
            self.name,
            self.params[index],
            index + 1
        ))
    }
}

impl Signature {
    #[cold]
    fn python_too_many(&self, given: usize) -> Raised {
        let this = usize::from(self.name.contains('.'));
        let (least, most) = (
            self.required.min(self.positional) + this,
            self.positional + this,
        );
        let takes = if least == most {
            format!(
                "{most} positional argument{}",
                if most == 1 { "" } else { "s" }
            )
        } else {
            format!("from {least} to {most} positional arguments")
        };
        let given = given + this;
        let were = if given == 1 { "was" } else { "were" };
        Raised::type_error(&format!(
            "{}() takes {takes} but {given} {were} given",
            self.name
        ))
    }

    #[cold]
    fn python_given_twice(&self, index: usize) -> Raised {
        Raised::type_error(&format!(
            "{}() got multiple values for argument '{}'",
            self.name, self.params[index]
        ))
    }

    #[cold]
    fn python_missing(&self, bound: &[Option<Obj<'_>>]) -> Raised {
        let is_missing = |index: &usize| bound[*index].is_none();
        let by_position = (0..self.required.min(self.positional)).filter(is_missing);
        let mut names: Vec<&str> = by_position.map(|index| self.params[index]).collect();
        let kind = if names.is_empty() {
            let by_name = (self.positional..self.required).filter(is_missing);
            names = by_name.map(|index| self.params[index]).collect();
            "keyword-only"
        } else {
            "positional"
        };
        let quoted: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
        let list = match &quoted[..] {
            [one] => one.clone(),
            [one, two] => format!("{one} and {two}"),
            [first @ .., last] => format!("{}, and {last}", first.join(", ")),
            [] => String::new(),
        };
        let plural = if names.len() == 1 { "" } else { "s" };
        Raised::type_error(&format!(
            "{}() missing {} required {kind} argument{plural}: {list}",
            self.name,
            names.len()
        ))
    }
}

/// `TypeError` for a keyword argument that `function` does not take.
#[cold]
pub fn unexpected_keyword(function: &str, name: Obj<'_>) -> Raised {
    match text(name) {
        Ok(name) => Raised::type_error(&format!(
            "{function}() got an unexpected keyword argument '{name}'"
        )),
        Err(raised) => raised,
    }
}

fn is_name(name: Obj<'_>, expected: &str) -> bool {
    let mut length = 0;
    // SAFETY: keyword names are strings (the interpreter checks); the buffer belongs to the string.
    let data = unsafe { c::PyUnicode_AsUTF8AndSize(name.ptr(), &mut length) };
    if data.is_null() {
        drop(Raised::from_indicator().take());
        return false;
    }
    // SAFETY: `length` bytes at `data`, alive as long as `name`.
    let bytes = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), length as usize) };
    bytes == expected.as_bytes()
}
