//! Parsing of the arguments of hand-written methods: vectorcall arrays, or a tuple and a dict.
//!
//! May touch: nothing but its inputs. Raises TypeError with the texts that CPython's argument
//! clinic uses.

use std::ptr::null_mut;

use pyo3_ffi as c;

use super::call::text;
use super::error::{R, Raised};
use super::object::{Obj, PyObject, Ref};

/// Named arguments that no parameter took, as (name, value).
pub type Rest<'a> = Vec<(Obj<'a>, Obj<'a>)>;

/// The arguments of one call: positional ones, then the values of names that lie in a tuple.
pub struct Args<'a> {
    values: &'a [Obj<'a>],
    positional: usize,
    names: Names<'a>,
}

/// Where the names of named arguments are.
#[derive(Clone, Copy)]
enum Names<'a> {
    None,
    /// Behind the positional values lies one for each of these.
    Tuple(Obj<'a>),
    /// With their values. Not empty.
    Dict(Obj<'a>),
}

/// The named arguments of a call, one after the other.
pub struct Named<'a> {
    names: Names<'a>,
    values: &'a [Obj<'a>],
    position: c::Py_ssize_t,
}

impl<'a> Iterator for Named<'a> {
    type Item = (Obj<'a>, Obj<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self.names {
            Names::None => None,
            Names::Tuple(names) => {
                let index = self.position as usize;
                let value = *self.values.get(index)?;
                self.position += 1;
                Some((super::call::tuple_item(names, index), value))
            }
            Names::Dict(named) => {
                let (mut key, mut value) = (null_mut(), null_mut());
                let position = &mut self.position;
                // SAFETY: a dict of the call's own, which nobody changes; both come borrowed.
                unsafe {
                    let more = c::PyDict_Next(named.ptr(), position, &mut key, &mut value);
                    (more != 0).then(|| (Obj::from_ptr(key), Obj::from_ptr(value)))
                }
            }
        }
    }
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
        let named = kwnames.map_or(0, |names| unsafe { c::PyTuple_GET_SIZE(names.ptr()) });
        let total = (nargs + named) as usize;
        let values = if total == 0 {
            &[]
        } else {
            // SAFETY: `total` non-null pointers, and `Obj` is a transparent non-null pointer.
            unsafe { std::slice::from_raw_parts(args.cast::<Obj<'a>>(), total) }
        };
        Args {
            values,
            positional: nargs as usize,
            names: kwnames.map_or(Names::None, Names::Tuple),
        }
    }

    /// Wraps a tuple and a dict as `tp_init` gets them.
    pub fn of_call(args: Obj<'a>, kwargs: Option<Obj<'a>>) -> Self {
        // SAFETY: a tuple's items are non-null while it is alive, and `Obj` is a transparent
        // non-null pointer.
        let values = unsafe {
            let len = c::PyTuple_GET_SIZE(args.ptr()) as usize;
            let items = &raw const (*args.ptr().cast::<c::PyTupleObject>()).ob_item;
            std::slice::from_raw_parts(items.cast::<Obj<'a>>(), len)
        };
        // SAFETY: a dict.
        let named = kwargs.filter(|kwargs| unsafe { c::PyDict_Size(kwargs.ptr()) } > 0);
        Args {
            values,
            positional: values.len(),
            names: named.map_or(Names::None, Names::Dict),
        }
    }

    /// The positional arguments.
    #[inline]
    pub fn positional(&self) -> &'a [Obj<'a>] {
        &self.values[..self.positional]
    }

    /// Whether there are no arguments at all, which is all that a method without any asks.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && !self.has_named()
    }

    /// The arguments, if they are `N` and all given by position.
    #[inline]
    pub fn exactly<const N: usize>(&self) -> Option<[Obj<'a>; N]> {
        if self.has_named() {
            None
        } else {
            self.values.try_into().ok()
        }
    }

    /// The named arguments as (name, value).
    #[inline]
    pub fn named(&self) -> Named<'a> {
        Named {
            names: self.names,
            values: &self.values[self.positional..],
            position: 0,
        }
    }

    /// Calls `callee` with the same arguments.
    pub fn pass_on(&self, callee: Obj<'_>) -> R<Ref> {
        match self.names {
            Names::None => callee.call(self.values),
            Names::Tuple(names) => callee.call_kw(self.values, names),
            Names::Dict(named) => {
                let values = super::call::tuple(self.values)?;
                callee.call_dict(values.obj(), Some(named))
            }
        }
    }

    /// Whether any argument was passed by name.
    #[inline]
    pub fn has_named(&self) -> bool {
        match self.names {
            Names::None => false,
            Names::Tuple(_) => self.values.len() > self.positional,
            Names::Dict(_) => true,
        }
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
        let known = utf8(name);
        let is_it = |param: &&str| known == Some(param.as_bytes());
        match self.params.iter().position(is_it) {
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
    utf8(name) == Some(expected.as_bytes())
}

/// The text of a keyword; `None` for one that is no text, such as a lone surrogate.
#[inline]
fn utf8(name: Obj<'_>) -> Option<&[u8]> {
    let mut length = 0;
    // SAFETY: keyword names are strings (the interpreter checks); the buffer belongs to the string.
    let data = unsafe { c::PyUnicode_AsUTF8AndSize(name.ptr(), &mut length) };
    if data.is_null() {
        drop(Raised::from_indicator().take());
        return None;
    }
    // SAFETY: `length` bytes at `data`, alive as long as `name`.
    Some(unsafe { std::slice::from_raw_parts(data.cast::<u8>(), length as usize) })
}
