/* The limit of scheduling in one process: an event loop that does for a row the least that its
 * meaning asks of CPython's C interface, and nothing more.
 *
 * A module with the types Loop, Handle, Future and Task, as far as the rows that have a limit need
 * them; the rows run on it unchanged. What a row's meaning asks here:
 *   call_soon   a handle that the collector knows, with callback, arguments and a context (one
 *               for all: nobody sets a variable here, and a loop may see that); a place in a ring;
 *               the context entered and left around one vectorcall
 *   ..._threadsafe  the same, and a loop that sleeps is woken by a semaphore
 *   call_later  the clock, a handle with its deadline, a place in a heap
 *   Task        the same context, entered and left around one PyIter_Send for each step; a
 *               task or future that is waited for knows who waits
 *   sleep(0)    an object to await that yields once
 *   Lock        an object to await for entering and one for leaving, which then set a flag
 *   async generators  a hook that keeps a weak reference to each that begins, and one for their end,
 *               which is never called where they run to their end
 *   PriorityQueue  an object to await for each put and get; a heap of references, in which small
 *               ints are compared by value; a future where there is no room or nothing
 * What a loop has to do beyond that is missing, so this is a bound from below: it never asks the
 * kernel for events, knows no lock but the GIL, no debug mode, no subclass, no all_tasks(), no second
 * waiter; its handles are not instances of asyncio's; a callback that raises is printed. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <semaphore.h>
#include <stddef.h>
#include <time.h>

enum { INLINE_ARGS = 3, RING_MIN = 1024, HEAP_MIN = 1024 };

/* --- what is scheduled --------------------------------------------------------------------------*/

typedef struct {
    PyObject_HEAD
    PyObject *callback; /* NULL once cancelled */
    PyObject *context;
    PyObject *args[INLINE_ARGS];
    Py_ssize_t nargs;
    struct Loop *cancels_in; /* borrowed: the loop whose heap holds this handle, or NULL */
} Handle;

typedef struct {
    PyObject_HEAD
    PyObject *result;  /* NULL while pending */
    PyObject *waiter;  /* a task, or NULL */
    PyObject *loop;
    /* Of tasks only. */
    PyObject *coroutine; /* NULL in futures and once it has ended */
    PyObject *context;
    PyObject *exception; /* what ended it instead of a result */
} Future;

typedef struct {
    double when;
    Handle *handle;
} Timer;

typedef struct Loop {
    PyObject_HEAD
    PyObject **ring; /* handles and tasks; `ring_room` is a power of two */
    size_t ring_room, first, length;
    Timer *heap;
    size_t heap_room, heap_length, cancelled;
} Loop;

static PyTypeObject HandleType, FutureType, TaskType, LoopType;

/* A new reference to the context of all callbacks, or NULL. */
static PyObject *any_context(void) {
    static PyObject *context;
    if (context == NULL)
        context = PyContext_CopyCurrent();
    return Py_XNewRef(context);
}

/* One loop runs at a time: which one, whether it sleeps until another thread calls, changed with the GIL, and
 * what it sleeps on. */
static Loop *running; /* borrowed */
static int sleeps;
static sem_t called;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Takes the reference over. */
static inline int push(Loop *loop, PyObject *entry) {
    if (loop->length == loop->ring_room) {
        size_t room = loop->ring_room ? 2 * loop->ring_room : RING_MIN;
        PyObject **ring = PyMem_Malloc(room * sizeof *ring);
        if (ring == NULL) {
            Py_DECREF(entry);
            PyErr_NoMemory();
            return -1;
        }
        for (size_t index = 0; index < loop->length; index++)
            ring[index] = loop->ring[(loop->first + index) & (loop->ring_room - 1)];
        PyMem_Free(loop->ring);
        loop->ring = ring, loop->ring_room = room, loop->first = 0;
    }
    loop->ring[(loop->first + loop->length++) & (loop->ring_room - 1)] = entry;
    return 0;
}

static inline PyObject *pop(Loop *loop) {
    PyObject *entry = loop->ring[loop->first];
    loop->first = (loop->first + 1) & (loop->ring_room - 1);
    loop->length--;
    return entry;
}

/* --- Handle -------------------------------------------------------------------------------------*/

static Handle *handle_new(PyObject *const *args, Py_ssize_t nargs) {
    if (nargs < 1 || nargs > 1 + INLINE_ARGS) {
        PyErr_SetString(PyExc_TypeError, "a callback and at most three arguments");
        return NULL;
    }
    PyObject *context = any_context();
    if (context == NULL)
        return NULL;
    Handle *handle = PyObject_GC_New(Handle, &HandleType);
    if (handle == NULL) {
        Py_DECREF(context);
        return NULL;
    }
    handle->callback = Py_NewRef(args[0]);
    handle->context = context;
    handle->nargs = nargs - 1;
    for (Py_ssize_t index = 0; index < nargs - 1; index++)
        handle->args[index] = Py_NewRef(args[index + 1]);
    handle->cancels_in = NULL;
    PyObject_GC_Track(handle);
    return handle;
}

static int handle_clear(PyObject *self) {
    Handle *handle = (Handle *)self;
    Py_ssize_t nargs = handle->nargs;
    handle->nargs = 0;
    Py_CLEAR(handle->callback);
    for (Py_ssize_t index = 0; index < nargs; index++)
        Py_CLEAR(handle->args[index]);
    return 0;
}

static int handle_traverse(PyObject *self, visitproc visit, void *arg) {
    Handle *handle = (Handle *)self;
    Py_VISIT(handle->callback);
    Py_VISIT(handle->context);
    for (Py_ssize_t index = 0; index < handle->nargs; index++)
        Py_VISIT(handle->args[index]);
    return 0;
}

static void handle_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    handle_clear(self);
    Py_DECREF(((Handle *)self)->context);
    PyObject_GC_Del(self);
}

static PyObject *handle_cancel(PyObject *self, PyObject *unused) {
    Handle *handle = (Handle *)self;
    if (handle->callback != NULL) {
        if (handle->cancels_in != NULL)
            handle->cancels_in->cancelled++;
        handle_clear(self);
    }
    Py_RETURN_NONE;
}

static void handle_run(Handle *handle) {
    if (handle->callback == NULL)
        return;
    PyObject *callback = Py_NewRef(handle->callback), *args[1 + INLINE_ARGS], *result = NULL;
    Py_ssize_t nargs = handle->nargs;
    for (Py_ssize_t index = 0; index < nargs; index++)
        args[1 + index] = Py_NewRef(handle->args[index]);
    if (PyContext_Enter(handle->context) == 0) {
        size_t flagged = (size_t)nargs | PY_VECTORCALL_ARGUMENTS_OFFSET;
        result = PyObject_Vectorcall(callback, args + 1, flagged, NULL);
        PyContext_Exit(handle->context);
    }
    if (result == NULL)
        PyErr_WriteUnraisable(callback);
    Py_XDECREF(result);
    for (Py_ssize_t index = 0; index < nargs; index++)
        Py_DECREF(args[1 + index]);
    Py_DECREF(callback);
}

static PyMethodDef handle_methods[] = {
    {"cancel", handle_cancel, METH_NOARGS, NULL},
    {NULL},
};

static PyTypeObject HandleType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "limit_calls.Handle",
    .tp_basicsize = sizeof(Handle),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_traverse = handle_traverse,
    .tp_clear = handle_clear,
    .tp_dealloc = handle_dealloc,
    .tp_methods = handle_methods,
};

/* --- Future and Task ----------------------------------------------------------------------------*/

static Future *future_new(PyTypeObject *type, Loop *loop) {
    Future *future = PyObject_GC_New(Future, type);
    if (future == NULL)
        return NULL;
    future->result = future->waiter = future->exception = NULL;
    future->coroutine = future->context = NULL;
    future->loop = Py_NewRef((PyObject *)loop);
    PyObject_GC_Track(future);
    return future;
}

static int future_clear(PyObject *self) {
    Future *future = (Future *)self;
    Py_CLEAR(future->result);
    Py_CLEAR(future->waiter);
    Py_CLEAR(future->loop);
    Py_CLEAR(future->coroutine);
    Py_CLEAR(future->context);
    Py_CLEAR(future->exception);
    return 0;
}

static int future_traverse(PyObject *self, visitproc visit, void *arg) {
    Future *future = (Future *)self;
    Py_VISIT(future->result);
    Py_VISIT(future->waiter);
    Py_VISIT(future->loop);
    Py_VISIT(future->coroutine);
    Py_VISIT(future->context);
    Py_VISIT(future->exception);
    return 0;
}

static void future_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    future_clear(self);
    PyObject_GC_Del(self);
}

/* Who waits is woken by becoming an entry of the ring. */
static int future_wake(Future *future) {
    PyObject *waiter = future->waiter;
    future->waiter = NULL;
    return waiter == NULL ? 0 : push((Loop *)future->loop, waiter);
}

static PyObject *future_set_result(PyObject *self, PyObject *result) {
    Future *future = (Future *)self;
    future->result = Py_NewRef(result);
    if (future_wake(future) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static int is_done(Future *future) {
    return future->result != NULL || future->exception != NULL;
}

static PyObject *future_done(PyObject *self, PyObject *unused) {
    return PyBool_FromLong(is_done((Future *)self));
}

/* What `await` drives: the future is its own iterator, as one task at a time waits for it. */
static PySendResult future_send(PyObject *self, PyObject *sent, PyObject **result) {
    Future *future = (Future *)self;
    if (future->result != NULL) {
        *result = Py_NewRef(future->result);
        return PYGEN_RETURN;
    }
    if (future->exception != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(future->exception), future->exception);
        *result = NULL;
        return PYGEN_ERROR;
    }
    *result = Py_NewRef(self);
    return PYGEN_NEXT;
}

static PyObject *future_next(PyObject *self) {
    PyObject *result;
    if (future_send(self, Py_None, &result) == PYGEN_RETURN) {
        PyErr_SetObject(PyExc_StopIteration, result);
        Py_CLEAR(result);
    }
    return result;
}

static PyObject *return_self(PyObject *self) {
    return Py_NewRef(self);
}

static PyAsyncMethods future_async = {.am_await = return_self, .am_send = future_send};

static PyMethodDef future_methods[] = {
    {"set_result", future_set_result, METH_O, NULL},
    {"done", future_done, METH_NOARGS, NULL},
    {NULL},
};

static PyTypeObject FutureType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "limit_calls.Future",
    .tp_basicsize = sizeof(Future),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .tp_traverse = future_traverse,
    .tp_clear = future_clear,
    .tp_dealloc = future_dealloc,
    .tp_iter = return_self,
    .tp_iternext = future_next,
    .tp_as_async = &future_async,
    .tp_methods = future_methods,
};

static PyTypeObject TaskType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "limit_calls.Task",
    .tp_basicsize = sizeof(Future),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_traverse = future_traverse,
    .tp_clear = future_clear,
    .tp_dealloc = future_dealloc,
    .tp_base = &FutureType,
};

/* Waits for a future, or for the next turn if `yielded` is None; takes the reference over. */
static int task_wait(Future *task, PyObject *yielded) {
    int result = 0;
    if (Py_IsNone(yielded)) {
        result = push((Loop *)task->loop, Py_NewRef((PyObject *)task));
    } else if (PyObject_TypeCheck(yielded, &FutureType)) {
        Py_XSETREF(((Future *)yielded)->waiter, Py_NewRef((PyObject *)task));
    } else {
        PyErr_Format(PyExc_RuntimeError, "a task yielded %R", yielded);
        result = -1;
    }
    Py_DECREF(yielded);
    return result;
}

/* -1 for what is not the task's own failure. */
static int task_step(Future *task) {
    PyObject *result = NULL;
    if (PyContext_Enter(task->context) < 0)
        return -1;
    PySendResult sent = PyIter_Send(task->coroutine, Py_None, &result);
    PyContext_Exit(task->context);
    if (sent == PYGEN_NEXT)
        return task_wait(task, result);
    if (sent == PYGEN_RETURN) {
        task->result = result;
    } else {
        PyObject *type, *traceback;
        PyErr_Fetch(&type, &task->exception, &traceback);
        PyErr_NormalizeException(&type, &task->exception, &traceback);
        Py_XDECREF(type);
        Py_XDECREF(traceback);
    }
    Py_CLEAR(task->coroutine);
    return future_wake(task);
}

/* --- Loop ---------------------------------------------------------------------------------------*/

static PyObject *loop_call_soon(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    Handle *handle = handle_new(args, nargs);
    if (handle == NULL || push((Loop *)self, Py_NewRef((PyObject *)handle)) < 0)
        return NULL;
    return (PyObject *)handle;
}

static PyObject *loop_call_soon_threadsafe(
    PyObject *self, PyObject *const *args, Py_ssize_t nargs
) {
    PyObject *handle = loop_call_soon(self, args, nargs);
    if (handle != NULL && sleeps) {
        sleeps = 0;
        sem_post(&called);
    }
    return handle;
}

static void sleep_until_called(void) {
    sleeps = 1;
    Py_BEGIN_ALLOW_THREADS
    while (sem_wait(&called) != 0)
        ;
    Py_END_ALLOW_THREADS
}

static PyObject *schedule_at(Loop *loop, double when, PyObject *const *args, Py_ssize_t nargs) {
    if (loop->heap_length == loop->heap_room) {
        size_t room = loop->heap_room ? 2 * loop->heap_room : HEAP_MIN;
        Timer *heap = PyMem_Realloc(loop->heap, room * sizeof *heap);
        if (heap == NULL)
            return PyErr_NoMemory();
        loop->heap = heap, loop->heap_room = room;
    }
    Handle *handle = handle_new(args, nargs);
    if (handle == NULL)
        return NULL;
    handle->cancels_in = loop;
    size_t index = loop->heap_length++;
    for (; index > 0 && loop->heap[(index - 1) / 4].when > when; index = (index - 1) / 4)
        loop->heap[index] = loop->heap[(index - 1) / 4];
    loop->heap[index] = (Timer){when, (Handle *)Py_NewRef((PyObject *)handle)};
    return (PyObject *)handle;
}

static PyObject *loop_call_at(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    double when = nargs ? PyFloat_AsDouble(args[0]) : 0.0;
    if (when == -1.0 && PyErr_Occurred())
        return NULL;
    return schedule_at((Loop *)self, when, args + 1, nargs - 1);
}

static PyObject *loop_call_later(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    double delay = nargs ? PyFloat_AsDouble(args[0]) : 0.0;
    if (delay == -1.0 && PyErr_Occurred())
        return NULL;
    return schedule_at((Loop *)self, now() + delay, args + 1, nargs - 1);
}

static void sift_down(Loop *loop, size_t index, Timer timer) {
    for (;;) {
        size_t least = 4 * index + 1, end = least + 4;
        if (least >= loop->heap_length)
            break;
        if (end > loop->heap_length)
            end = loop->heap_length;
        for (size_t child = least + 1; child < end; child++)
            if (loop->heap[child].when < loop->heap[least].when)
                least = child;
        if (loop->heap[least].when >= timer.when)
            break;
        loop->heap[index] = loop->heap[least];
        index = least;
    }
    loop->heap[index] = timer;
}

/* Takes the cancelled ones out, once they are more than half. */
static void sweep(Loop *loop) {
    size_t kept = 0, length = loop->heap_length;
    for (size_t index = 0; index < length; index++) {
        Timer timer = loop->heap[index];
        if (timer.handle->callback != NULL)
            loop->heap[kept++] = timer;
        else
            Py_DECREF(timer.handle);
    }
    loop->heap_length = kept, loop->cancelled = 0;
    for (size_t index = kept / 4 + 1; index-- > 0;)
        if (index < kept)
            sift_down(loop, index, loop->heap[index]);
}

/* Moves what is due into the ring; with nothing ready sleeps until something is. */
static int expire(Loop *loop) {
    if (loop->cancelled * 2 > loop->heap_length)
        sweep(loop);
    if (loop->heap_length == 0)
        return 0;
    double time = now(), wait = loop->heap[0].when - time;
    if (loop->length == 0 && wait > 0) {
        struct timespec rest = {(time_t)wait, (long)((wait - (double)(time_t)wait) * 1e9)};
        Py_BEGIN_ALLOW_THREADS
        nanosleep(&rest, NULL);
        Py_END_ALLOW_THREADS
        time = now();
    }
    while (loop->heap_length != 0 && loop->heap[0].when <= time) {
        Handle *handle = loop->heap[0].handle;
        handle->cancels_in = NULL;
        Timer last = loop->heap[--loop->heap_length];
        if (loop->heap_length != 0)
            sift_down(loop, 0, last);
        if (push(loop, (PyObject *)handle) < 0)
            return -1;
    }
    return 0;
}

static PyObject *loop_create_task(PyObject *self, PyObject *coroutine) {
    PyObject *context = any_context();
    Future *task = context == NULL ? NULL : future_new(&TaskType, (Loop *)self);
    if (task == NULL) {
        Py_XDECREF(context);
        return NULL;
    }
    task->coroutine = Py_NewRef(coroutine);
    task->context = context;
    if (push((Loop *)self, Py_NewRef((PyObject *)task)) < 0)
        return NULL;
    return (PyObject *)task;
}

/* Runs turns until the coroutine has ended. */
static PyObject *loop_run(PyObject *self, PyObject *coroutine) {
    Loop *loop = (Loop *)self;
    Future *task = (Future *)loop_create_task(self, coroutine);
    if (task == NULL)
        return NULL;
    running = loop;
    while (!is_done(task)) {
        if (expire(loop) < 0)
            return NULL;
        if (loop->length == 0 && loop->heap_length == 0)
            sleep_until_called();
        for (size_t left = loop->length; left > 0; left--) {
            PyObject *entry = pop(loop);
            int failed = 0;
            if (Py_IS_TYPE(entry, &TaskType))
                failed = task_step((Future *)entry);
            else
                handle_run((Handle *)entry);
            Py_DECREF(entry);
            if (failed)
                return NULL;
        }
    }
    PyObject *result;
    future_send((PyObject *)task, Py_None, &result);
    Py_DECREF(task);
    return result;
}

/* --- what is awaited ----------------------------------------------------------------------------*/

typedef struct {
    PyObject_HEAD
    int locked;
} Lock;

typedef struct {
    PyObject_HEAD
    PyObject *lock; /* NULL: sleep(0) */
    int state;      /* of a sleep whether it has yielded, of a lock's what it becomes */
} Awaited;

static PyTypeObject AwaitedType, LockType;
static Awaited *spare; /* dead, untracked, with one reference */

static PyObject *awaited_new(PyObject *lock, int state) {
    Awaited *awaited = spare;
    spare = NULL;
    if (awaited == NULL && (awaited = PyObject_GC_New(Awaited, &AwaitedType)) == NULL)
        return NULL;
    awaited->lock = Py_XNewRef(lock);
    awaited->state = state;
    PyObject_GC_Track(awaited);
    return (PyObject *)awaited;
}

static PyObject *awaited_next(PyObject *self) {
    Awaited *awaited = (Awaited *)self;
    if (awaited->lock == NULL)
        return awaited->state++ ? NULL : Py_NewRef(Py_None);
    Lock *lock = (Lock *)awaited->lock;
    if (lock->locked && awaited->state)
        return PyErr_Format(PyExc_RuntimeError, "this lock knows no waiters");
    lock->locked = awaited->state;
    return NULL;
}

static int awaited_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(((Awaited *)self)->lock);
    return 0;
}

static void awaited_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    Py_CLEAR(((Awaited *)self)->lock);
    if (spare != NULL) {
        PyObject_GC_Del(self);
        return;
    }
    Py_INCREF(self);
    spare = (Awaited *)self;
}

static PyAsyncMethods awaited_await = {.am_await = Py_NewRef};

static PyTypeObject AwaitedType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "limit_calls.Awaited",
    .tp_basicsize = sizeof(Awaited),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_traverse = awaited_traverse,
    .tp_dealloc = awaited_dealloc,
    .tp_as_async = &awaited_await,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = awaited_next,
};

static PyObject *lock_enter(PyObject *self, PyObject *unused) {
    return awaited_new(self, 1);
}

static PyObject *lock_exit(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    return awaited_new(self, 0);
}

static PyMethodDef lock_methods[] = {
    {"__aenter__", lock_enter, METH_NOARGS, NULL},
    {"__aexit__", (PyCFunction)(void (*)(void))lock_exit, METH_FASTCALL, NULL},
    {NULL},
};

static PyTypeObject LockType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "limit_calls.Lock",
    .tp_basicsize = sizeof(Lock),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_methods = lock_methods,
};

/* --- PriorityQueue ------------------------------------------------------------------------------*/

typedef struct {
    PyObject_HEAD
    PyObject **heap; /* as `heapq` orders them; `most` places */
    Py_ssize_t length, most;
    Future *getter, *putter; /* who waits, or NULL; one of each */
} Queue;

typedef struct {
    PyObject_HEAD
    Queue *queue;
    PyObject *item; /* NULL: a get */
} Transfer;

static PyTypeObject TransferType, QueueType;

/* -1 with an exception. */
static int is_less(PyObject *one, PyObject *other) {
#if PY_VERSION_HEX >= 0x030C0000
    if (PyLong_CheckExact(one) && PyLong_CheckExact(other)) {
        PyLongObject *left = (PyLongObject *)one, *right = (PyLongObject *)other;
        if (PyUnstable_Long_IsCompact(left) && PyUnstable_Long_IsCompact(right))
            return PyUnstable_Long_CompactValue(left) < PyUnstable_Long_CompactValue(right);
    }
#endif
    return PyObject_RichCompareBool(one, other, Py_LT);
}

static int rise(Queue *queue, Py_ssize_t place, PyObject *item) {
    PyObject **heap = queue->heap;
    while (place > 0) {
        Py_ssize_t parent = (place - 1) / 2;
        int less = is_less(item, heap[parent]);
        if (less < 0)
            return -1;
        if (!less)
            break;
        heap[place] = heap[parent];
        place = parent;
    }
    heap[place] = item;
    return 0;
}

/* The least item, whose reference goes to the caller; NULL with an exception. */
static PyObject *take_least(Queue *queue) {
    PyObject **heap = queue->heap, *least = heap[0], *last = heap[--queue->length];
    Py_ssize_t place = 0, length = queue->length;
    while (2 * place + 1 < length) {
        Py_ssize_t child = 2 * place + 1;
        if (child + 1 < length) {
            int less = is_less(heap[child], heap[child + 1]);
            if (less < 0)
                return NULL;
            child += !less;
        }
        heap[place] = heap[child];
        place = child;
    }
    if (length > 0 && rise(queue, place, last) < 0)
        return NULL;
    return least;
}

static int wake(Future **waits) {
    Future *future = *waits;
    if (future == NULL)
        return 0;
    *waits = NULL;
    future->result = Py_NewRef(Py_None);
    int status = future_wake(future);
    Py_DECREF(future);
    return status;
}

/* Waits with a new future. */
static PyObject *wait_in(Future **waits) {
    if (*waits != NULL)
        return PyErr_Format(PyExc_RuntimeError, "this queue knows one waiter of each kind");
    *waits = future_new(&FutureType, running);
    return Py_XNewRef((PyObject *)*waits);
}

static PyObject *transfer_next(PyObject *self) {
    Transfer *transfer = (Transfer *)self;
    Queue *queue = transfer->queue;
    if (transfer->item != NULL) {
        if (queue->length == queue->most)
            return wait_in(&queue->putter);
        if (rise(queue, queue->length++, transfer->item) == 0) {
            transfer->item = NULL;
            wake(&queue->getter);
        }
        return NULL;
    }
    if (queue->length == 0)
        return wait_in(&queue->getter);
    PyObject *item = take_least(queue);
    if (item != NULL && wake(&queue->putter) == 0)
        PyErr_SetObject(PyExc_StopIteration, item);
    Py_XDECREF(item);
    return NULL;
}

static int transfer_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(((Transfer *)self)->queue);
    Py_VISIT(((Transfer *)self)->item);
    return 0;
}

static Transfer *spare_transfer; /* as `spare` */

static PyObject *transfer_new(PyObject *queue, PyObject *item) {
    Transfer *transfer = spare_transfer;
    spare_transfer = NULL;
    if (transfer == NULL && (transfer = PyObject_GC_New(Transfer, &TransferType)) == NULL)
        return NULL;
    transfer->queue = (Queue *)Py_NewRef(queue);
    transfer->item = Py_XNewRef(item);
    PyObject_GC_Track(transfer);
    return (PyObject *)transfer;
}

static void transfer_dealloc(PyObject *self) {
    Transfer *transfer = (Transfer *)self;
    PyObject_GC_UnTrack(self);
    Py_CLEAR(transfer->queue);
    Py_CLEAR(transfer->item);
    if (spare_transfer != NULL) {
        PyObject_GC_Del(self);
        return;
    }
    Py_INCREF(self);
    spare_transfer = transfer;
}

static PyTypeObject TransferType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "limit_calls.Transfer",
    .tp_basicsize = sizeof(Transfer),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_traverse = transfer_traverse,
    .tp_dealloc = transfer_dealloc,
    .tp_as_async = &awaited_await,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = transfer_next,
};

static PyObject *queue_get(PyObject *self, PyObject *unused) {
    return transfer_new(self, NULL);
}

static PyMethodDef queue_methods[] = {
    {"put", transfer_new, METH_O, NULL},
    {"get", queue_get, METH_NOARGS, NULL},
    {NULL},
};

static int queue_init(PyObject *self, PyObject *args, PyObject *kwargs) {
    Queue *queue = (Queue *)self;
    if (!PyArg_ParseTuple(args, "n", &queue->most))
        return -1;
    queue->heap = PyMem_Calloc((size_t)queue->most, sizeof *queue->heap);
    return queue->heap == NULL ? (PyErr_NoMemory(), -1) : 0;
}

/* Queues are few: the heap of one, and what is left in it, are not freed. */
static PyTypeObject QueueType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "limit_calls.PriorityQueue",
    .tp_basicsize = sizeof(Queue),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_init = queue_init,
    .tp_methods = queue_methods,
};

static PyObject *sleep_zero(PyObject *module, PyObject *delay) {
    return awaited_new(NULL, 0);
}

static PyMethodDef functions[] = {{"sleep", sleep_zero, METH_O, NULL}, {NULL}};

/* --- async generators ---------------------------------------------------------------------------*/

/* A loop knows those that have begun and live; here the last few, so that no search for dead ones counts. */
static PyObject *begun[64];

static PyObject *loop_firstiter(PyObject *self, PyObject *generator) {
    static unsigned next;
    PyObject *reference = PyWeakref_NewRef(generator, NULL);
    if (reference == NULL)
        return NULL;
    PyObject **place = &begun[next++ % (sizeof begun / sizeof *begun)];
    Py_XSETREF(*place, reference);
    Py_RETURN_NONE;
}

static PyObject *loop_finalizer(PyObject *self, PyObject *generator) {
    Py_RETURN_NONE;
}

/* --- the module ---------------------------------------------------------------------------------*/

static PyObject *loop_time(PyObject *self, PyObject *unused) {
    return PyFloat_FromDouble(now());
}

static PyObject *loop_create_future(PyObject *self, PyObject *unused) {
    return (PyObject *)future_new(&FutureType, (Loop *)self);
}

static PyMethodDef loop_methods[] = {
    {"call_soon", (PyCFunction)(void (*)(void))loop_call_soon, METH_FASTCALL, NULL},
    {"call_soon_threadsafe", (PyCFunction)(void (*)(void))loop_call_soon_threadsafe, METH_FASTCALL,
     NULL},
    {"call_later", (PyCFunction)(void (*)(void))loop_call_later, METH_FASTCALL, NULL},
    {"call_at", (PyCFunction)(void (*)(void))loop_call_at, METH_FASTCALL, NULL},
    {"time", loop_time, METH_NOARGS, NULL},
    {"create_future", loop_create_future, METH_NOARGS, NULL},
    {"create_task", loop_create_task, METH_O, NULL},
    {"run_until_complete", loop_run, METH_O, NULL},
    {"_asyncgen_firstiter_hook", loop_firstiter, METH_O, NULL},
    {"_asyncgen_finalizer_hook", loop_finalizer, METH_O, NULL},
    {NULL},
};

/* Loops are few and live as long as their process: what is left in one is not freed. */
static PyTypeObject LoopType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "limit_calls.Loop",
    .tp_basicsize = sizeof(Loop),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_methods = loop_methods,
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "limit_calls",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit_limit_calls(void) {
    if (PyType_Ready(&HandleType) < 0 || PyType_Ready(&FutureType) < 0 ||
        PyType_Ready(&TaskType) < 0 || PyType_Ready(&LoopType) < 0 ||
        PyType_Ready(&AwaitedType) < 0 || PyType_Ready(&LockType) < 0 ||
        PyType_Ready(&TransferType) < 0 || PyType_Ready(&QueueType) < 0)
        return NULL;
    sem_init(&called, 0, 0);
    PyObject *made = PyModule_Create(&module);
    if (made == NULL || PyModule_AddObjectRef(made, "Loop", (PyObject *)&LoopType) < 0 ||
        PyModule_AddObjectRef(made, "Lock", (PyObject *)&LockType) < 0 ||
        PyModule_AddObjectRef(made, "PriorityQueue", (PyObject *)&QueueType) < 0)
        return NULL;
    return made;
}
