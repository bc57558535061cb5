//! Whether anybody holds the GIL, asked without wanting it.
//!
//! Who asks for the GIL while another thread has it goes to sleep, and to be woken takes tens of
//! microseconds. A thread that waits awake for an answer therefore waits until the one who answers
//! has let go of the GIL, too. The interpreter keeps in one word whether it is taken; no function
//! says so. May touch: that word, to read. Invariant: the word is found by looking, once, among
//! the interpreter's own variables, by three words in a row with known content; where they are not
//! found, [`is_watched`] says so. *Source*: `struct _gil_runtime_state`.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use pyo3_ffi as c;

use super::call::import;
use super::error::R;

/// `locked`: above zero while a thread has the GIL. Null: not looked for yet.
static LOCKED: AtomicPtr<AtomicI32> = AtomicPtr::new(std::ptr::null_mut());

/// Stands for the word where it was not found: never taken.
static NOT_FOUND: AtomicI32 = AtomicI32::new(0);

/// Whether [`is_taken`] knows. Looks for the word when first asked; attached threads only.
#[inline]
pub fn is_watched() -> bool {
    let mut locked = LOCKED.load(Ordering::Relaxed);
    if locked.is_null() {
        locked = find();
        LOCKED.store(locked, Ordering::Relaxed);
    }
    !std::ptr::eq(locked, &raw const NOT_FOUND)
}

/// Whether [`is_taken`] knows, because somebody asked [`is_watched`] and it was found; any thread.
#[inline]
pub fn was_found() -> bool {
    let locked = LOCKED.load(Ordering::Relaxed);
    !locked.is_null() && !std::ptr::eq(locked, &raw const NOT_FOUND)
}

/// Whether a thread has the GIL just now; any thread. Never true where that is not known.
#[inline]
pub fn is_taken() -> bool {
    let locked = LOCKED.load(Ordering::Relaxed);
    // SAFETY: null, one of ours, or inside the interpreter's variables, which are never freed.
    let locked = unsafe { locked.as_ref() }.unwrap_or(&NOT_FOUND);
    // Only a hint: whoever goes by it asks for the GIL, which orders everything.
    locked.load(Ordering::Relaxed) != 0
}

#[cold]
fn find() -> *mut AtomicI32 {
    let found = switch_interval().ok().and_then(|interval| {
        let (variables, size) = interpreter_variables()?;
        find_among(variables, size, interval)
    });
    found.unwrap_or((&raw const NOT_FOUND).cast_mut())
}

/// `sys.getswitchinterval()` in microseconds, as the interpreter keeps it.
fn switch_interval() -> R<usize> {
    let get = import(c"sys")?.obj().getattr_str(c"getswitchinterval")?;
    let seconds = get.obj().call0()?.obj().to_f64()?;
    Ok((seconds * 1e6).round() as usize)
}

/// `Elf64_Sym`. *Source*: elf(5).
#[repr(C)]
struct ElfSymbol {
    name: u32,
    info: u8,
    other: u8,
    section: u16,
    value: u64,
    size: u64,
}

/// Asks `dladdr1` for the symbol. *Source*: `RTLD_DL_SYMENT` of dlfcn.h.
const SYMBOL_ENTRY: c_int = 1;

/// Where all of the interpreter's variables lie, `_PyRuntime`, and their size in words.
#[cfg(all(target_env = "gnu", target_pointer_width = "64"))]
fn interpreter_variables() -> Option<(*const usize, usize)> {
    // SAFETY: a valid name; any thread.
    let start = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"_PyRuntime".as_ptr()) };
    // SAFETY: plain old data.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    let mut symbol: *mut c_void = std::ptr::null_mut();
    // SAFETY: both places are valid for writing.
    let known = unsafe { libc::dladdr1(start, &raw mut info, &raw mut symbol, SYMBOL_ENTRY) };
    if start.is_null() || known == 0 || info.dli_saddr != start {
        return None;
    }
    // SAFETY: with this flag `dladdr1` gives an entry of a loaded symbol table, or null.
    let symbol = unsafe { symbol.cast::<ElfSymbol>().as_ref() }?;
    Some((start.cast(), symbol.size as usize / size_of::<usize>()))
}

#[cfg(not(all(target_env = "gnu", target_pointer_width = "64")))]
fn interpreter_variables() -> Option<(*const usize, usize)> {
    None
}

/// Looks for `interval`, `last_holder` and `locked`; not found if there is more than one place, or
/// if what is found does not change when this thread lets go of the GIL.
fn find_among(variables: *const usize, size: usize, interval: usize) -> Option<*mut AtomicI32> {
    // SAFETY: the thread is attached.
    let thread = unsafe { c::PyThreadState_Get() } as usize;
    // SAFETY: inside the variables. Other threads may change what is read: it is read as it is.
    let word = |index: usize| unsafe { variables.add(index).read_volatile() };
    let mut places = (0..size.saturating_sub(2)).filter(|&index| {
        word(index) == interval && word(index + 1) == thread && word(index + 2) as u32 == 1
    });
    let (Some(place), None) = (places.next(), places.next()) else {
        return None;
    };
    // SAFETY: inside the variables.
    let locked = unsafe { variables.add(place + 2) }.cast::<AtomicI32>();
    let is_still_ours = super::park::detached(|| {
        // SAFETY: as above; a word that the interpreter changes atomically.
        let is_taken = unsafe { &*locked }.load(Ordering::Relaxed) != 0;
        is_taken && word(place + 1) == thread
    });
    (!is_still_ours).then_some(locked.cast_mut())
}
