/* The load: many connections, one message in flight on each, all in one epoll loop.
 *
 * echo_client PORT CONNECTIONS BYTES WARMUP_MS MEASURE_MS
 * Prints one JSON object: requests in the measured time, its seconds, round-trip percentiles in
 * microseconds, and all requests including the warm-up. Exits with 1 when a connection breaks
 * and with 2 when nothing came back for STALL_MS. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS_MAX = 1024, BUFFER_BYTES = 1 << 20, STALL_MS = 5000 };
/* Latencies up to 0.1 s in steps of 1 us; longer ones count as the longest. */
enum { SLOTS = 100000 };

struct connection {
    int fd;
    int missing; /* bytes of the answer still to come */
    uint64_t sent_ns;
};

static char message[BUFFER_BYTES], sink[BUFFER_BYTES];
static uint64_t histogram[SLOTS];

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int connect_loopback(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

/* Blocking send: a message is in flight only when the former answer is complete. */
static void request(struct connection *connection, int bytes, uint64_t now) {
    for (int done = 0; done < bytes;) {
        ssize_t sent = send(connection->fd, message + done, (size_t)(bytes - done), MSG_NOSIGNAL);
        if (sent < 0)
            fail("send");
        done += (int)sent;
    }
    connection->missing = bytes;
    connection->sent_ns = now;
}

static void record(uint64_t took_ns) {
    uint64_t slot = took_ns / 1000;
    histogram[slot < SLOTS ? slot : SLOTS - 1]++;
}

static uint64_t percentile(uint64_t total, double share) {
    uint64_t seen = 0;
    for (uint64_t slot = 0; slot < SLOTS; slot++) {
        seen += histogram[slot];
        if ((double)seen >= share * (double)total)
            return slot;
    }
    return SLOTS;
}

/* Take what has arrived; returns 1 when the answer is complete. */
static int receive(struct connection *connection) {
    ssize_t got = recv(connection->fd, sink, (size_t)connection->missing, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN)
        return 0;
    if (got <= 0)
        fail(got == 0 ? "closed by server" : "recv");
    connection->missing -= (int)got;
    return connection->missing == 0;
}

int main(int argc, char **argv) {
    if (argc != 6)
        return 64;
    int port = atoi(argv[1]), count = atoi(argv[2]), bytes = atoi(argv[3]);
    uint64_t warmup_ns = strtoull(argv[4], NULL, 10) * 1000000u;
    uint64_t measure_ns = strtoull(argv[5], NULL, 10) * 1000000u;
    struct connection *connections = calloc((size_t)count, sizeof *connections);
    struct epoll_event events[EVENTS_MAX];
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (connections == NULL || epoll < 0 || bytes < 1 || bytes > BUFFER_BYTES)
        fail("set-up");
    memset(message, 'x', sizeof message);
    for (int i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &connections[i]};
        connections[i].fd = connect_loopback(port);
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, connections[i].fd, &event) < 0)
            fail("epoll_ctl");
    }
    uint64_t begin = now_ns(), from = begin + warmup_ns, until = from + measure_ns;
    uint64_t measured = 0, all = 0, now = begin;
    for (int i = 0; i < count; i++)
        request(&connections[i], bytes, now);
    while (now < until) {
        int ready = epoll_wait(epoll, events, EVENTS_MAX, STALL_MS);
        if (ready == 0)
            return 2;
        for (int i = 0; i < ready; i++) {
            struct connection *connection = events[i].data.ptr;
            if (!receive(connection))
                continue;
            now = now_ns();
            all++;
            if (now >= from && now < until) {
                measured++;
                record(now - connection->sent_ns);
            }
            request(connection, bytes, now);
        }
    }
    printf("{\"requests\": %llu, \"seconds\": %.6f, \"p50_us\": %llu, \"p99_us\": %llu, "
           "\"p999_us\": %llu, \"all_requests\": %llu}\n",
           (unsigned long long)measured, (double)measure_ns / 1e9,
           (unsigned long long)percentile(measured, 0.5),
           (unsigned long long)percentile(measured, 0.99),
           (unsigned long long)percentile(measured, 0.999), (unsigned long long)all);
    return 0;
}
