/* The load: many connections, one message in flight on each, all in one epoll loop.
 *
 * load_client TARGET KIND CONNECTIONS BYTES WARMUP_MS MEASURE_MS REQUESTS
 *   TARGET  tcp:PORT, tls:PORT, udp:PORT (loopback), unix:PATH
 *   KIND    echo; churn, a new connection for each message; http:PATH, GET on kept connections;
 *           websocket, echo in binary frames; send and receive, bulk; hold, one message on each
 *           connection, then `held` is printed and the connections stay until standard input ends
 * With REQUESTS above 0 it stops after so many instead of by the clock.
 * Prints `ready` when all connections are there, each having had one answer, and in the end one
 * JSON object: requests (or bytes) in the measured time, its seconds (more than were asked for where
 * not every connection could have had an answer by then), percentiles of the time from sending
 * (churn: connecting) to the whole answer in microseconds, the longest time in which no answer came,
 * all requests with the warm-up, datagrams lost, the client's own CPU seconds. Exits with 1 when a
 * connection breaks or an answer is wrong, and with 2 when nothing came back for STALL_MS (with
 * REQUESTS: PATIENT_MS). */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#endif

enum { EVENTS_MAX = 1024, BUFFER_BYTES = 1 << 20, RESEND_MS = 100 };
/* How long to wait for anything to happen; where requests are counted valgrind may be watching. */
enum { STALL_MS = 5000, START_MS = 30000, PATIENT_MS = 120000 };
/* Latencies up to 0.2 s in steps of 100 ns, then up to 20 s in steps of 10 us; longer ones count as
 * the longest. */
enum { FINE_SLOTS = 2000000, FINE_NS = 100, SLOTS = 2 * FINE_SLOTS, COARSE_NS = 10000 };
enum { HEAD_BYTES_MAX = 4096, HOLD_OPENING_MAX = 64, LATE_MS_MAX = 10000 };
enum kind { ECHO, CHURN, HTTP, WEBSOCKET, SEND, RECEIVE, HOLD };
enum phase { IDLE, CONNECTING, HANDSHAKE, UPGRADE, RUNNING };

struct connection {
    int fd;
    enum phase phase;
    int writable_wanted; /* EPOLLOUT is asked for */
    const char *out;
    size_t left;    /* of `out`, still to be sent */
    size_t got;     /* of the answer */
    size_t whole;   /* of the answer; 0 while a head is being read */
    uint64_t begun; /* when the message was sent */
    char *head;     /* of an answer whose length its head says */
#ifdef WITH_TLS
    SSL *tls;
#endif
};

static struct {
    enum kind kind;
    int is_tls, is_udp, count, port, epoll;
    int begun; /* every connection has had its first answer */
    const char *path;
    const char *message; /* what is sent, framed */
    size_t sends, expects;
    const char *expected;
    uint64_t from, until, latest, target;
} plan;
static char payload[BUFFER_BYTES + 64], framed[BUFFER_BYTES + 64], sink[BUFFER_BYTES + 64];
static char upgrade[] = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                        "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                        "Sec-WebSocket-Version: 13\r\n\r\n";
static uint64_t histogram[SLOTS];
static uint64_t measured, all, lost, measured_bytes, churned, latest_answer, pause_ns;
static int opened, ready, finished;
#ifdef WITH_TLS
static SSL_CTX *context;
#endif

static void fail(const char *what) {
    if (errno)
        perror(what);
    else
        fprintf(stderr, "%s\n", what);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* --- one connection ------------------------------------------------------------------------- */

/* What to listen for. Of kept connections edges: the kernel then tells who has an answer in the order
 * in which the answers came. By level it puts all that it told of last time before those that came
 * after, and where this program is the slower side that order, not the server's, is the p99. */
static uint32_t listened(int writable) {
    int is_kept = plan.kind == ECHO || plan.kind == HTTP || plan.kind == WEBSOCKET;
    return EPOLLIN | (writable ? EPOLLOUT : 0) | (is_kept ? EPOLLET : 0);
}

static void want(struct connection *connection, int writable) {
    struct epoll_event event = {.events = listened(writable), .data.ptr = connection};
    if (connection->writable_wanted == writable)
        return;
    if (epoll_ctl(plan.epoll, EPOLL_CTL_MOD, connection->fd, &event) < 0)
        fail("epoll_ctl");
    connection->writable_wanted = writable;
}

/* A client address of its own for every few thousand connections, so that none has to wait for a
 * port whose former connection is not yet forgotten. */
static void bind_client(int fd) {
    int one = 1;
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + (uint32_t)(churned++ / 4096) % 200)};
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("bind");
}

static int connect_unix(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    strncpy(address.sun_path, plan.path, sizeof address.sun_path - 1);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("connect");
    return fd;
}

static int connect_loopback(void) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)plan.port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    int fd = socket(AF_INET, (plan.is_udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail("socket");
    if (plan.kind == CHURN)
        bind_client(fd);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("connect");
    if (!plan.is_udp)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    /* OpenSSL reads until the socket says no: a handshake must not wait for its server alone. */
    if (plan.is_tls && fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        fail("fcntl");
    return fd;
}

/* Returns the bytes sent, 0 when there is no room. */
static size_t put(struct connection *connection, const char *data, size_t size) {
#ifdef WITH_TLS
    if (connection->tls) {
        size_t done = 0;
        if (SSL_write_ex(connection->tls, data, size, &done) == 1)
            return done;
        if (SSL_get_error(connection->tls, 0) == SSL_ERROR_WANT_WRITE)
            return 0;
        fail("SSL_write");
    }
#endif
    ssize_t sent = send(connection->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EAGAIN)
        return 0;
    if (sent < 0)
        fail("send");
    return (size_t)sent;
}

/* Returns the bytes received, 0 when there are none yet. */
static size_t take(struct connection *connection, char *data, size_t size) {
#ifdef WITH_TLS
    if (connection->tls) {
        size_t done = 0;
        if (SSL_read_ex(connection->tls, data, size, &done) == 1)
            return done;
        if (SSL_get_error(connection->tls, 0) == SSL_ERROR_WANT_READ)
            return 0;
        errno = 0;
        fail("SSL_read: closed by server");
    }
#endif
    ssize_t got = recv(connection->fd, data, size, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || (plan.is_udp && errno == ECONNREFUSED)))
        return 0;
    if (got == 0)
        errno = 0;
    if (got <= 0)
        fail(got == 0 ? "closed by server" : "recv");
    return (size_t)got;
}

static void flush(struct connection *connection) {
    while (connection->left) {
        size_t sent = put(connection, connection->out, connection->left);
        if (!sent)
            break;
        connection->out += sent;
        connection->left -= sent;
    }
    want(connection, connection->left > 0);
}

static void start_message(struct connection *connection, uint64_t now) {
    connection->out = plan.message;
    connection->left = plan.sends;
    connection->got = 0;
    connection->whole = plan.expects;
    connection->begun = now;
    flush(connection);
}

static void advance(struct connection *connection);

static void open_connection(struct connection *connection) {
    struct epoll_event event = {.events = listened(0), .data.ptr = connection};
    uint64_t begun = now_ns();
    connection->fd = plan.path ? connect_unix() : connect_loopback();
    connection->begun = begun;
    connection->writable_wanted = 0;
    if (epoll_ctl(plan.epoll, EPOLL_CTL_ADD, connection->fd, &event) < 0)
        fail("epoll_ctl");
    opened++;
    connection->phase = CONNECTING;
#ifdef WITH_TLS
    if (plan.is_tls) {
        connection->tls = SSL_new(context);
        if (!connection->tls || !SSL_set_fd(connection->tls, connection->fd))
            fail("SSL_new");
        SSL_set_connect_state(connection->tls);
    }
#endif
    advance(connection);
}

static void close_connection(struct connection *connection) {
#ifdef WITH_TLS
    if (connection->tls) {
        SSL_shutdown(connection->tls);
        SSL_free(connection->tls);
        connection->tls = NULL;
    }
#endif
    close(connection->fd);
    connection->phase = IDLE;
}

#ifdef WITH_TLS
static int handshake(struct connection *connection) {
    int done = SSL_do_handshake(connection->tls);
    int error = done == 1 ? 0 : SSL_get_error(connection->tls, done);
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
        return 0;
    if (error) {
        ERR_print_errors_fp(stderr);
        fail("TLS handshake");
    }
    SSL_set_mode(connection->tls,
                 SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    return 1;
}
#endif

/* Go on with setting up a connection as far as it goes without waiting. */
static void advance(struct connection *connection) {
    if (connection->phase == CONNECTING)
        connection->phase = HANDSHAKE;
#ifdef WITH_TLS
    if (connection->phase == HANDSHAKE && connection->tls && !handshake(connection))
        return;
#endif
    if (connection->phase == HANDSHAKE && plan.kind == WEBSOCKET) {
        connection->phase = UPGRADE;
        connection->out = upgrade;
        connection->left = sizeof upgrade - 1;
        connection->got = 0;
        flush(connection);
        return;
    }
    if (connection->phase == UPGRADE) {
        connection->got += take(connection, connection->head + connection->got,
                                HEAD_BYTES_MAX - 1 - connection->got);
        connection->head[connection->got] = 0;
        if (!strstr(connection->head, "\r\n\r\n"))
            return;
        errno = 0;
        if (!strstr(connection->head, " 101 "))
            fail("no 101 from the server");
    }
    connection->phase = RUNNING;
    if (plan.kind == SEND || plan.kind == RECEIVE)
        ready++;
    else
        start_message(connection, connection->begun); /* churn counts from connecting */
}

/* --- answers ---------------------------------------------------------------------------------- */

static void record(uint64_t took_ns) {
    uint64_t slot = took_ns / FINE_NS;
    if (slot >= FINE_SLOTS)
        slot = FINE_SLOTS + (took_ns - (uint64_t)FINE_SLOTS * FINE_NS) / COARSE_NS;
    histogram[slot < SLOTS ? slot : SLOTS - 1]++;
}

static double slot_us(uint64_t slot) {
    double ns = slot < FINE_SLOTS ? (double)slot * FINE_NS
                                  : (double)FINE_SLOTS * FINE_NS +
                                        (double)(slot - FINE_SLOTS) * COARSE_NS;
    return ns / 1000;
}

static double percentile_us(double share) {
    uint64_t seen = 0;
    for (uint64_t slot = 0; slot < SLOTS; slot++) {
        seen += histogram[slot];
        if ((double)seen >= share * (double)measured)
            return slot_us(slot);
    }
    return slot_us(SLOTS - 1);
}

/* Take the head of an HTTP answer; its length is then known. */
static void take_head(struct connection *connection) {
    char *end, *length;
    connection->got += take(connection, connection->head + connection->got,
                            HEAD_BYTES_MAX - 1 - connection->got);
    connection->head[connection->got] = 0;
    if (!(end = strstr(connection->head, "\r\n\r\n")))
        return;
    length = strcasestr(connection->head, "\r\ncontent-length:");
    errno = 0;
    if (strncmp(connection->head, "HTTP/1.1 200", 12) || !length || length > end)
        fail("the answer is not 200 with a length");
    connection->whole = (size_t)(end + 4 - connection->head) + strtoull(length + 17, NULL, 10);
}

/* Take what has arrived; returns 1 when the answer is complete. */
static int receive(struct connection *connection, int checked) {
    size_t got;
    if (!connection->whole) {
        take_head(connection);
        if (!connection->whole || connection->got >= connection->whole)
            return connection->whole > 0;
    }
    do {
        got = take(connection, sink, connection->whole - connection->got);
        errno = 0;
        if (checked && got && plan.expected &&
            memcmp(sink, plan.expected + connection->got, got))
            fail("the answer is wrong");
        connection->got += got;
    } while (got && connection->got < connection->whole && plan.is_tls);
    return connection->got >= connection->whole;
}

static void set_times(uint64_t warmup_ns, uint64_t measure_ns) {
    plan.from = now_ns() + warmup_ns;
    plan.until = plan.from + measure_ns;
    plan.latest = plan.until + LATE_MS_MAX * 1000000ull;
}

/* Whether the measured time has to go on: not every connection can have had an answer in it. */
static int is_short(uint64_t now) {
    int is_bulk = plan.kind == SEND || plan.kind == RECEIVE;
    return now < plan.latest && (is_bulk ? !measured_bytes : measured < (uint64_t)plan.count);
}

/* Whether what happens now is in the measured time, which is longer if it has to be. */
static int is_measured(uint64_t now) {
    if (now < plan.from)
        return 0;
    if (now >= plan.until && is_short(now))
        plan.until = now + 1;
    return now < plan.until;
}

static void answered(struct connection *connection) {
    uint64_t now = now_ns();
    if (!plan.begun) {
        ready++;
        return;
    }
    all++;
    if (is_measured(now)) {
        measured++;
        record(now - connection->begun);
        if (latest_answer && now - latest_answer > pause_ns)
            pause_ns = now - latest_answer;
        latest_answer = now;
    }
    if (plan.target && all >= plan.target) {
        finished = 1;
    } else if (plan.kind == CHURN) {
        close_connection(connection);
        open_connection(connection);
    } else if (plan.kind != HOLD) {
        start_message(connection, now);
    }
}

/* Whether there is something to take that the kernel does not know of any more. */
static int has_more(struct connection *connection) {
#ifdef WITH_TLS
    if (connection->tls)
        return SSL_has_pending(connection->tls);
#endif
    return 0;
}

static void bulk(struct connection *connection) {
    size_t size;
    do {
        size = plan.kind == SEND ? put(connection, payload, BUFFER_BYTES)
                                 : take(connection, sink, BUFFER_BYTES);
        if (is_measured(now_ns()))
            measured_bytes += size;
        all += size;
    } while (size && plan.kind == RECEIVE && has_more(connection));
    if (plan.kind == SEND)
        want(connection, 1);
}

static void handle(struct connection *connection, uint32_t events) {
    if (connection->phase != RUNNING) {
        advance(connection);
    } else if (plan.kind == SEND || plan.kind == RECEIVE) {
        bulk(connection);
    } else {
        if (events & EPOLLOUT)
            flush(connection);
        if (receive(connection, now_ns() < plan.from))
            answered(connection);
    }
}

/* Datagrams that have no answer are sent again. */
static void resend(struct connection *connections) {
    uint64_t now = now_ns();
    for (int i = 0; i < plan.count; i++)
        if (connections[i].got < connections[i].whole &&
            now - connections[i].begun > RESEND_MS * 1000000ull) {
            lost++;
            start_message(&connections[i], now);
        }
}

/* --- the whole ------------------------------------------------------------------------------ */

static void parse_target(char *target) {
    char *rest = strchr(target, ':');
    errno = 0;
    if (!rest)
        fail("a target has a colon");
    *rest++ = 0;
    plan.is_tls = !strcmp(target, "tls");
    plan.is_udp = !strcmp(target, "udp");
    if (!strcmp(target, "unix"))
        plan.path = rest;
    else
        plan.port = atoi(rest);
#ifdef WITH_TLS
    context = SSL_CTX_new(TLS_client_method());
    if (!context)
        fail("SSL_CTX_new");
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    /* A record in one receive instead of two. */
    SSL_CTX_set_read_ahead(context, 1);
#else
    if (plan.is_tls)
        fail("built without TLS");
#endif
}

/* Wrap the message in a frame: masked with zeros, so that it stays readable; an answer has none. */
static void frame(size_t bytes) {
    size_t lengths = bytes < 126 ? 0 : bytes < 65536 ? 2 : 8;
    char *to = framed;
    *to++ = (char)0x82;
    *to++ = (char)(0x80 | (lengths == 0 ? bytes : lengths == 2 ? 126 : 127));
    for (size_t shift = lengths; shift-- > 0;)
        *to++ = (char)(bytes >> (8 * shift));
    to += 4;
    memcpy(to, payload, bytes);
    plan.message = framed;
    plan.sends = 2 + lengths + 4 + bytes;
    plan.expects = 2 + lengths + bytes;
    plan.expected = NULL;
}

static void parse_kind(const char *kind, size_t bytes) {
    static const char *names[] = {"echo", "churn", "http", "websocket", "send", "receive", "hold"};
    size_t name = strcspn(kind, ":");
    for (int i = 0; i < 7; i++)
        if (strlen(names[i]) == name && !strncmp(kind, names[i], name))
            plan.kind = (enum kind)i;
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (char)('!' + i % 89);
    plan.message = plan.expected = payload;
    plan.sends = plan.expects = bytes;
    if (plan.kind == HTTP) {
        plan.sends = (size_t)snprintf(framed, sizeof framed,
                                      "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", kind + 5);
        plan.message = framed;
        plan.expects = 0;
        plan.expected = NULL;
    } else if (plan.kind == WEBSOCKET) {
        frame(bytes);
    }
}

static void show(double seconds) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"requests\": %llu, \"bytes\": %llu, \"seconds\": %.6f, \"all\": %llu, "
           "\"lost\": %llu, \"client_cpu\": %.6f",
           (unsigned long long)measured, (unsigned long long)measured_bytes, seconds,
           (unsigned long long)all, (unsigned long long)lost,
           (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
               (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
    if (measured)
        printf(", \"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"pause_us\": %.1f",
               percentile_us(0.5), percentile_us(0.99), percentile_us(0.999),
               (double)pause_ns / 1000);
    printf("}\n");
    fflush(stdout);
}

/* All connections are there and have had an answer: only now is anything counted. */
static void begin(struct connection *connections, uint64_t warmup_ns, uint64_t measure_ns) {
    plan.begun = 1;
    set_times(warmup_ns, measure_ns);
    printf("ready\n");
    fflush(stdout);
    for (int i = 0; i < plan.count; i++) {
        if (plan.kind == SEND)
            want(&connections[i], 1);
        else if (plan.kind != RECEIVE)
            start_message(&connections[i], now_ns());
    }
}

static int wait_and_handle(struct connection *connections) {
    struct epoll_event events[EVENTS_MAX];
    int count = epoll_wait(plan.epoll, events, EVENTS_MAX,
                           plan.is_udp  ? RESEND_MS
                           : !plan.begun ? START_MS
                           : plan.target ? PATIENT_MS
                                         : STALL_MS);
    if (count == 0 && plan.is_udp && lost < 1000u * (unsigned)plan.count)
        resend(connections);
    else if (count == 0)
        return 2;
    for (int i = 0; i < count && !finished; i++)
        handle(events[i].data.ptr, events[i].events);
    return 0;
}

static int is_over(void) {
    uint64_t now = now_ns();
    return finished || (!plan.target && now >= plan.until && !is_short(now));
}

static int run(struct connection *connections) {
    while (!is_over()) {
        int stalled = wait_and_handle(connections);
        if (stalled)
            return stalled;
        if (plan.kind == HOLD)
            while (opened < plan.count && opened - (int)all < HOLD_OPENING_MAX)
                open_connection(&connections[opened]);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 8)
        return 64;
    size_t bytes = strtoull(argv[4], NULL, 10);
    uint64_t measure_ns = strtoull(argv[6], NULL, 10) * 1000000u;
    parse_target(argv[1]);
    parse_kind(argv[2], bytes);
    plan.count = atoi(argv[3]);
    struct connection *connections = calloc((size_t)plan.count, sizeof *connections);
    plan.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!connections || plan.epoll < 0 || bytes < 1 || bytes > BUFFER_BYTES)
        fail("set-up");
    plan.target = plan.kind == HOLD ? (uint64_t)plan.count : strtoull(argv[7], NULL, 10);
    uint64_t warmup_ns = strtoull(argv[5], NULL, 10) * 1000000u;
    if (plan.kind == CHURN)
        set_times(warmup_ns, measure_ns);
    else
        plan.from = plan.until = plan.latest = UINT64_MAX;
    if (plan.kind == HTTP || plan.kind == WEBSOCKET)
        for (int i = 0; i < plan.count; i++)
            if (!(connections[i].head = malloc(HEAD_BYTES_MAX)))
                fail("malloc");
    plan.begun = plan.kind == CHURN || plan.kind == HOLD;
    for (int i = 0; i < plan.count && (plan.kind != HOLD || i < HOLD_OPENING_MAX); i++)
        open_connection(&connections[i]);
    int stalled = 0;
    if (plan.begun) {
        printf("ready\n");
        fflush(stdout);
    } else {
        while (!stalled && ready < plan.count)
            stalled = wait_and_handle(connections);
        if (!stalled)
            begin(connections, warmup_ns, measure_ns);
    }
    if (!stalled)
        stalled = run(connections);
    if (stalled)
        return stalled;
    if (plan.kind == HOLD) {
        printf("held\n");
        fflush(stdout);
        while (getchar() != EOF)
            ;
    }
    show((double)(plan.until - plan.from) / 1e9);
    return 0;
}
