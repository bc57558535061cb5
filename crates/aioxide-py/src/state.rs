//! What the module looks up once at import: asyncio's functions, interned names, native types.
//!
//! Set once by `init`, read-only ever after. Everything in it lives as long as the process: the
//! module refuses subinterpreters, so there is one interpreter to belong to.

use std::cell::OnceCell;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3_ffi as c;

use crate::ffi::call::{import, interned};
use crate::ffi::layout::Layout;
use crate::ffi::stock::Stock;
use crate::ffi::{Obj, R, Raised, Ref};
use crate::streams::{self, Streams};
use crate::transport::{Inherited, Ssl};

macro_rules! names {
    ($($name:ident),* $(,)?) => {
        /// Interned strings, one field per name.
        pub struct Names {
            $(
                #[allow(missing_docs)]
                pub $name: Ref,
            )*
        }
        impl Names {
            fn new() -> R<Names> {
                Ok(Names { $($name: {
                    let text = concat!(stringify!($name), "\0");
                    // The literal ends in NUL, so the conversion holds.
                    let text = std::ffi::CStr::from_bytes_with_nul(text.as_bytes())
                        .map_err(|_| Raised::runtime("a name holds NUL"))?;
                    interned(text)?
                }),* })
            }
        }
    };
}

names! {
    __aenter__, __dict__, _abort, _accept_ssl, _aexit, _asyncio_future_blocking, _attach,
    _call_connection_lost, _cancel_message, _check_handshake_timeout, _check_shutdown_timeout,
    _client_connected_cb, _detach, _do_read, _drain_helper, _ensure_fd_no_transport,
    _ensure_resolved, _force_close, _format, _get_close_waiter, _init, _insert_timeout_error,
    _is_base_error, _limit, _log_destroy_pending, _loop, _make_cancelled_error,
    _maybe_resume_transport, _msg_callback, _on_task_done, _on_timeout, _protocol, _protocol_paused,
    _read_ready, _replace_transport, _replace_writer, _resumed, _run_once, _shutdown,
    _source_traceback, _sslcontext, _sslobj, _start_reading, _stream_reader, _wait_for_data,
    _wakeup_waiter, _write_ready, abort, accept, acquire, add_done_callback, append, buffer,
    buffer_updated, call_at, call_exception_handler, call_later, call_soon, call_soon_threadsafe,
    can_write_eof, cancel, cancelled, cancelling, cipher, clear, close, co_flags, compression,
    connect, connection_lost, connection_made, context, cr_await, create_future, create_task,
    data_received, datagram_received, detach, do_handshake, done, drain, eof_received, errno,
    error_received, exception, feed_data, feed_eof, fileno, full, future, get, get_buffer,
    get_debug, get_extra_info, get_loop, get_nowait, getpeercert, getpeername, getsockname,
    getsockopt, gettimeout, gi_code, handle, is_closing, is_running, locked, message, name, notify,
    notify_all, pause_reading, pause_writing, peercert, peername, pending, pipe, pipe_data_received,
    pop, popleft, protocol, put, put_nowait, raw, read, readline, readuntil, recv, recv_into,
    recvfrom, recvfrom_into, release, remove, remove_done_callback, reschedule, result,
    resume_reading, resume_writing, run, run_in_executor, send, sendto, set, set_exception,
    set_name, set_result, set_transport, setblocking, shutdown, socket, sockname, source_traceback,
    ssl_object, sslcontext, task, throw, time, transport, uncancel, unwrap, value, wait, warning,
    wrap_bio, write, write_eof, writelines,
}

/// asyncio's own objects that the hot types call.
pub struct Asyncio {
    pub cancelled_error: Ref,
    pub invalid_state_error: Ref,
    pub iscoroutine: Ref,
    pub isfuture: Ref,
    pub get_running_loop: Ref,
    /// `_asyncio._get_running_loop`.
    pub running_loop_or_none: Ref,
    pub deque: Ref,
    pub future_repr: Ref,
    pub task_repr: Ref,
    pub task_get_stack: Ref,
    pub task_print_stack: Ref,
    pub get_event_loop: Ref,
    /// `asyncio.events._get_running_loop`, which gives `None` where none runs.
    pub find_running_loop: Ref,
    pub current_task: Ref,
    pub ensure_future: Ref,
    /// `asyncio.futures._get_loop`.
    pub futures_get_loop: Ref,
    /// `asyncio.tasks._GatheringFuture`.
    pub gathering_class: Ref,
    pub future_add_to_awaited_by: Option<Ref>,
    pub future_discard_from_awaited_by: Option<Ref>,
    pub convert_future_exc: Ref,
    /// The module `concurrent.futures.thread`, once it was needed.
    pub thread_pools: OnceCell<Ref>,
    pub extract_stack: Ref,
    pub traceback_extract_stack: Ref,
    pub format_callback_source: Ref,
    pub check_callback: Ref,
    pub check_thread: Ref,
    pub format_handle: Ref,
    pub logger: Ref,
    /// The module, for what programs replace in it.
    pub base_events: Ref,
    pub eager_task_factory: Option<Ref>,
    pub transport_socket: Ref,
    /// What transports show of their sockets, once the package has said so.
    pub shown_socket: OnceCell<Ref>,
    pub set_result_unless_cancelled: Ref,
    pub handle_class: Ref,
    pub timer_handle_class: Ref,
    /// `asyncio.events._ThreadSafeHandle`, from 3.14 on.
    pub thread_safe_handle_class: Option<Ref>,
    /// `threading.Lock`.
    pub new_lock: Ref,
    pub transport_class: Ref,
    pub datagram_transport_class: Ref,
    pub buffered_protocol_class: Ref,
    pub future_class: Ref,
    pub task_class: Ref,
    pub socket_class: Ref,
    /// `_socket.socket`, which `socket.socket` derives from, and methods of it.
    pub socket_base: Ref,
    pub socket_recv: Ref,
    pub socket_recv_into: Ref,
    pub socket_send: Ref,
    /// `io.FileIO`, which owns the descriptor of a file or pipe.
    pub file_class: Ref,
    pub read_transport_class: Ref,
    /// `asyncio.BaseTransport.get_extra_info`.
    pub extra_info: Inherited,
}

/// Behaviour that differs between Python versions, read off the running interpreter.
pub struct Quirks {
    /// `set_exception(StopIteration())` stores a RuntimeError instead of raising TypeError.
    pub stop_iteration_becomes_runtime_error: bool,
    /// `uncancel()` down to zero also withdraws a cancellation not yet delivered.
    pub uncancel_clears_must_cancel: bool,
    /// `Future.__init__` on an initialised future raises RuntimeError.
    pub init_once: bool,
    /// `StopIteration` has its parts where they are expected.
    pub stop_iteration_is_as_known: bool,
    /// `loop.create_task` passes every keyword to the task factory.
    pub factory_takes_kwargs: bool,
}

/// The native types.
pub struct Types {
    pub future: Ref,
    pub task: Ref,
    pub future_iter: Ref,
    pub coroutine: Ref,
    pub coroutine_wrapper: Ref,
    pub coroutine_function: Ref,
    pub cell: Ref,
    pub as_completed: Ref,
    pub gathering: Ref,
    pub job_queue: Ref,
    pub lookout: Ref,
    pub handle: Ref,
    pub timer_handle: Ref,
    pub thread_safe_handle: Option<Ref>,
    pub event_loop: Ref,
    pub clients: Ref,
    pub stream_transport: Ref,
    pub datagram_transport: Ref,
    pub read_pipe_transport: Ref,
    pub write_pipe_transport: Ref,
    pub file_sender: Ref,
    pub tls_protocol: Ref,
    pub tls_transport: Ref,
}

/// Everything, under one pointer.
pub struct State {
    pub names: Names,
    pub asyncio: Asyncio,
    /// Absent on a Python without OpenSSL.
    pub ssl: Option<Ssl>,
    pub quirks: Quirks,
    pub layout: Layout,
    /// Absent where contexts are not laid out as expected.
    pub light_context: Option<crate::ffi::light_context::Light>,
    /// `("context",)`: the keyword names of a `call_soon(..., context=ctx)`.
    pub kw_context: Ref,
    /// The keyword names of a `_ensure_resolved(..., family=, type=, proto=, loop=)`.
    pub kw_resolve: Ref,
    /// `("debug",)`.
    pub kw_debug: Ref,
    /// `("loop",)`.
    pub kw_loop: Ref,
    /// `("msg",)`.
    pub kw_msg: Ref,
    /// The `int` 0, which is one object.
    pub zero: Ref,
    pub enter_task: Ref,
    pub leave_task: Ref,
    pub swap_current_task: Option<Ref>,
    /// `_asyncio._current_tasks`, before 3.14.
    pub current_tasks: Option<Ref>,
    #[cfg(Py_3_14)]
    pub register_task: Ref,
    #[cfg(Py_3_14)]
    pub unregister_task: Ref,
    #[cfg(not(Py_3_14))]
    pub all_tasks: &'static crate::ffi::registry::Head,
    /// The native types' addresses, for comparing on hot paths.
    pub future_type: *mut c::PyTypeObject,
    pub task_type: *mut c::PyTypeObject,
    pub gathering_type: *mut c::PyTypeObject,
    pub loop_type: *mut c::PyTypeObject,
    pub types: Types,
    pub spare_coroutines: crate::sync::coroutine::Spare,
    pub origins: crate::sync::coroutine::Origins,
    /// The native locks and queues.
    pub sync: crate::sync::Families,
    pub streams: Streams,
    pub timeouts: crate::sync::Timeouts,
    pub waiting: crate::sync::Waiting,
}

static STATE: AtomicPtr<State> = AtomicPtr::new(std::ptr::null_mut());

/// The module's state. The module sets it before any native object can exist.
#[inline]
pub fn state() -> &'static State {
    let state = STATE.load(Ordering::Relaxed);
    debug_assert!(!state.is_null());
    // SAFETY: set once at import to leaked memory, before the first native type is used; the GIL
    // (or import lock) orders that store before every use.
    unsafe { &*state }
}

/// Whether the module was initialised before in this process.
pub fn is_initialised() -> bool {
    !STATE.load(Ordering::Relaxed).is_null()
}

/// Looks everything up and publishes it. Once per process.
pub fn init() -> R<()> {
    let asyncio = Asyncio::new()?;
    crate::ffi::weak::probe()?;
    let quirks = Quirks::probe(&asyncio)?;
    let layout = Layout::probe(asyncio.future_class.obj(), asyncio.task_class.obj())?;
    let module = import(c"_asyncio")?;
    let tasks = import(c"asyncio.tasks")?;
    let types = Types::build(&asyncio, layout.fields)?;
    let (context, debug) = (interned(c"context")?, interned(c"debug")?);
    let state = State {
        names: Names::new()?,
        ssl: Ssl::find()?,
        quirks,
        layout,
        light_context: crate::ffi::light_context::Light::probe()?,
        kw_context: crate::ffi::call::tuple(&[context.obj()])?,
        kw_resolve: crate::ffi::call::tuple(&[
            interned(c"family")?.obj(),
            interned(c"type")?.obj(),
            interned(c"proto")?.obj(),
            interned(c"loop")?.obj(),
        ])?,
        kw_debug: crate::ffi::call::tuple(&[debug.obj()])?,
        kw_loop: crate::ffi::call::tuple(&[interned(c"loop")?.obj()])?,
        kw_msg: crate::ffi::call::tuple(&[interned(c"msg")?.obj()])?,
        zero: crate::ffi::call::int(0)?,
        enter_task: tasks.obj().getattr_str(c"_enter_task")?,
        leave_task: tasks.obj().getattr_str(c"_leave_task")?,
        swap_current_task: optional(module.obj(), c"_swap_current_task")?,
        current_tasks: optional(module.obj(), c"_current_tasks")?,
        #[cfg(Py_3_14)]
        register_task: module.obj().getattr_str(c"_register_task")?,
        #[cfg(Py_3_14)]
        unregister_task: module.obj().getattr_str(c"_unregister_task")?,
        #[cfg(not(Py_3_14))]
        all_tasks: crate::ffi::registry::Head::leak(),
        future_type: types.future.ptr().cast(),
        task_type: types.task.ptr().cast(),
        gathering_type: types.gathering.ptr().cast(),
        loop_type: types.event_loop.ptr().cast(),
        spare_coroutines: crate::sync::coroutine::Spare::new(),
        origins: crate::sync::coroutine::Origins::new(),
        sync: crate::sync::Families::new(types.coroutine_function.obj())?,
        waiting: crate::sync::Waiting::probe()?,
        timeouts: crate::sync::build_timeouts(types.coroutine_function.obj())?,
        types,
        streams: Streams::new()?,
        asyncio,
    };
    STATE.store(Box::into_raw(Box::new(state)), Ordering::Relaxed);
    streams::finish(self::state())
}

impl Types {
    /// Creates them; futures and tasks keep their own fields at `offset`.
    fn build(asyncio: &Asyncio, offset: usize) -> R<Types> {
        let future = crate::future::build_type(asyncio, offset)?;
        let coroutine_function = crate::sync::function::build_type()?;
        Ok(Types {
            gathering: crate::sync::gathering::build_type(asyncio, future.obj(), offset)?,
            future,
            task: crate::task::build_type(asyncio, offset)?,
            future_iter: crate::future_iter::build_type()?,
            coroutine: crate::sync::coroutine::build_type()?,
            coroutine_wrapper: crate::sync::coroutine::build_wrapper_type()?,
            coroutine_function: coroutine_function.clone(),
            cell: crate::sync::build_cell_type()?,
            job_queue: crate::event_loop::build_job_queue_type()?,
            lookout: crate::event_loop::build_lookout_type()?,
            as_completed: crate::sync::build_as_completed_type(coroutine_function.obj())?,
            handle: crate::handle::build_type(asyncio)?,
            timer_handle: crate::handle::build_timer_type(asyncio)?,
            thread_safe_handle: crate::handle::build_thread_safe_type(asyncio)?,
            event_loop: crate::event_loop::build_type()?,
            clients: crate::transport::build_clients_type()?,
            stream_transport: crate::transport::build_type(asyncio)?,
            datagram_transport: crate::transport::build_datagram_type(asyncio)?,
            read_pipe_transport: crate::transport::build_read_pipe_type(asyncio)?,
            write_pipe_transport: crate::transport::build_write_pipe_type(asyncio)?,
            file_sender: crate::transport::build_file_sender_type()?,
            tls_protocol: crate::transport::build_tls_protocol_type(asyncio)?,
            tls_transport: crate::transport::build_tls_transport_type(asyncio)?,
        })
    }
}

/// `getattr(object, name)` or nothing where it is missing.
fn optional(object: Obj<'_>, name: &std::ffi::CStr) -> R<Option<Ref>> {
    object.getattr_opt(interned(name)?.obj())
}

impl Asyncio {
    fn new() -> R<Asyncio> {
        let get = |module: &std::ffi::CStr, name: &std::ffi::CStr| -> R<Ref> {
            import(module)?.obj().getattr_str(name)
        };
        let tasks = import(c"asyncio.tasks")?;
        let native = import(c"_asyncio")?;
        let socket_base = get(c"_socket", c"socket")?;
        let base_loop = get(c"asyncio.base_events", c"BaseEventLoop")?;
        Ok(Asyncio {
            cancelled_error: get(c"asyncio.exceptions", c"CancelledError")?,
            invalid_state_error: get(c"asyncio.exceptions", c"InvalidStateError")?,
            get_running_loop: native.obj().getattr_str(c"get_running_loop")?,
            running_loop_or_none: native.obj().getattr_str(c"_get_running_loop")?,
            deque: get(c"collections", c"deque")?,
            isfuture: get(c"asyncio.futures", c"isfuture")?,
            iscoroutine: get(c"asyncio.coroutines", c"iscoroutine")?,
            future_repr: get(c"asyncio.base_futures", c"_future_repr")?,
            task_repr: get(c"asyncio.base_tasks", c"_task_repr")?,
            task_get_stack: get(c"asyncio.base_tasks", c"_task_get_stack")?,
            task_print_stack: get(c"asyncio.base_tasks", c"_task_print_stack")?,
            get_event_loop: get(c"asyncio.events", c"get_event_loop")?,
            find_running_loop: get(c"asyncio.events", c"_get_running_loop")?,
            current_task: get(c"asyncio.tasks", c"current_task")?,
            ensure_future: get(c"asyncio.tasks", c"ensure_future")?,
            futures_get_loop: get(c"asyncio.futures", c"_get_loop")?,
            gathering_class: get(c"asyncio.tasks", c"_GatheringFuture")?,
            future_add_to_awaited_by: optional(native.obj(), c"future_add_to_awaited_by")?,
            future_discard_from_awaited_by: optional(
                native.obj(),
                c"future_discard_from_awaited_by",
            )?,
            convert_future_exc: get(c"asyncio.futures", c"_convert_future_exc")?,
            thread_pools: OnceCell::new(),
            extract_stack: get(c"asyncio.format_helpers", c"extract_stack")?,
            traceback_extract_stack: get(c"traceback", c"extract_stack")?,
            format_callback_source: get(c"asyncio.format_helpers", c"_format_callback_source")?,
            check_callback: base_loop.obj().getattr_str(c"_check_callback")?,
            check_thread: base_loop.obj().getattr_str(c"_check_thread")?,
            format_handle: get(c"asyncio.base_events", c"_format_handle")?,
            logger: get(c"asyncio.log", c"logger")?,
            base_events: import(c"asyncio.base_events")?,
            eager_task_factory: optional(tasks.obj(), c"eager_task_factory")?,
            transport_socket: get(c"asyncio.trsock", c"TransportSocket")?,
            shown_socket: OnceCell::new(),
            set_result_unless_cancelled: get(c"asyncio.futures", c"_set_result_unless_cancelled")?,
            handle_class: get(c"asyncio.events", c"Handle")?,
            timer_handle_class: get(c"asyncio.events", c"TimerHandle")?,
            thread_safe_handle_class: optional(
                import(c"asyncio.events")?.obj(),
                c"_ThreadSafeHandle",
            )?,
            new_lock: get(c"threading", c"Lock")?,
            transport_class: get(c"asyncio.transports", c"Transport")?,
            datagram_transport_class: get(c"asyncio.transports", c"DatagramTransport")?,
            buffered_protocol_class: get(c"asyncio.protocols", c"BufferedProtocol")?,
            future_class: native.obj().getattr_str(c"Future")?,
            task_class: native.obj().getattr_str(c"Task")?,
            socket_class: get(c"socket", c"socket")?,
            socket_recv: socket_base.obj().getattr_str(c"recv")?,
            socket_recv_into: socket_base.obj().getattr_str(c"recv_into")?,
            socket_send: socket_base.obj().getattr_str(c"send")?,
            socket_base,
            file_class: get(c"io", c"FileIO")?,
            read_transport_class: get(c"asyncio.transports", c"ReadTransport")?,
            extra_info: Inherited::of(
                get(c"asyncio.transports", c"BaseTransport")?.obj(),
                interned(c"get_extra_info")?,
            )?,
        })
    }
}

impl Quirks {
    /// Asks the stock classes how they behave.
    fn probe(asyncio: &Asyncio) -> R<Quirks> {
        let stock = Stock::new(asyncio.future_class.obj(), asyncio.task_class.obj())?;
        Ok(Quirks {
            stop_iteration_becomes_runtime_error: takes_stop_iteration(&stock)?,
            stop_iteration_is_as_known: crate::ffi::stop::is_as_known()?,
            uncancel_clears_must_cancel: uncancel_clears(&stock)?,
            // SAFETY: a static of the interpreter.
            init_once: is_refused(stock.initialise_again(&stock.future()?), unsafe {
                c::PyExc_RuntimeError
            })?,
            factory_takes_kwargs: factory_takes_kwargs()?,
        })
    }
}

/// Whether a call raised the exception `class`; another one is raised on.
fn is_refused(outcome: R<Ref>, class: *mut c::PyObject) -> R<bool> {
    match outcome {
        Ok(_) => Ok(false),
        Err(raised) if raised.matches(class) => {
            raised.clear();
            Ok(true)
        }
        Err(raised) => Err(raised),
    }
}

fn takes_stop_iteration(stock: &Stock<'_>) -> R<bool> {
    let future = stock.future()?;
    // SAFETY: a static of the interpreter, which never goes.
    let class = unsafe { Obj::from_ptr(c::PyExc_StopIteration) };
    let set = interned(c"set_exception")?;
    let outcome = future.obj().call_method1(set.obj(), class.call0()?.obj());
    // SAFETY: a static of the interpreter.
    if is_refused(outcome, unsafe { c::PyExc_TypeError })? {
        return Ok(false);
    }
    // Seen: it is not to be reported.
    future.obj().call_method0(interned(c"exception")?.obj())?;
    Ok(true)
}

fn uncancel_clears(stock: &Stock<'_>) -> R<bool> {
    let context = crate::ffi::context::copy_current()?;
    let task = stock.task(interned(c"probe")?.obj(), context.obj())?;
    task.obj().call_method0(interned(c"cancel")?.obj())?;
    task.obj().call_method0(interned(c"uncancel")?.obj())?;
    Ok(!task.obj().getattr_str(c"_must_cancel")?.obj().is_true()?)
}

fn factory_takes_kwargs() -> R<bool> {
    let class = import(c"asyncio.base_events")?
        .obj()
        .getattr_str(c"BaseEventLoop")?;
    let mut function = class.obj().getattr_str(c"create_task")?;
    while let Some(wrapped) = optional(function.obj(), c"__wrapped__")? {
        function = wrapped;
    }
    let code = function.obj().getattr_str(c"__code__")?;
    let flags = code.obj().getattr_str(c"co_flags")?.obj().to_i64()?;
    Ok(flags & i64::from(c::CO_VARKEYWORDS) != 0)
}
