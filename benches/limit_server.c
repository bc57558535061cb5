/* The limit: a single-threaded epoll server with nothing above the kernel (or above OpenSSL).
 *
 * limit_server TARGET MODE [PEM]
 *   TARGET  tcp, tls, udp: a free loopback port, which is printed; unix:PATH
 *   MODE    echo; sink, reads and forgets; source, writes without end; http, a short answer to
 *           each head; idle is echo
 * Serves until it is killed. Level-triggered, one recv and one send per event, one shared buffer;
 * a short send is finished by waiting for room, which stalls the server: with clients that always
 * read it does not last. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#ifdef WITH_TLS
#include <openssl/ssl.h>
#endif

enum { EVENTS_MAX = 256, BUFFER_BYTES = 65536, BACKLOG = 4096, FD_MAX = 65536 };
enum mode { ECHO, SINK, SOURCE, HTTP };

static enum mode mode;
static int is_udp, is_tls;
static char buffer[BUFFER_BYTES];
static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
                             "Content-Length: 13\r\n\r\nHello, world!";
#ifdef WITH_TLS
static SSL_CTX *context;
static SSL *sessions[FD_MAX];
#endif

static void check(int result, const char *what) {
    if (result < 0) {
        perror(what);
        exit(1);
    }
}

static int listen_unix(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    check(listener, "socket");
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    check(bind(listener, (struct sockaddr *)&address, sizeof address), "bind");
    check(listen(listener, BACKLOG), "listen");
    printf("0\n");
    fflush(stdout);
    return listener;
}

static int listen_loopback(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int type = is_udp ? SOCK_DGRAM | SOCK_NONBLOCK : SOCK_STREAM;
    int listener = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    check(listener, "socket");
    check(bind(listener, (struct sockaddr *)&address, length), "bind");
    if (!is_udp)
        check(listen(listener, BACKLOG), "listen");
    check(getsockname(listener, (struct sockaddr *)&address, &length), "getsockname");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

static void watch(int epoll, int fd, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    check(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
}

static void accept_one(int epoll, int listener) {
    int one = 1;
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
#ifdef WITH_TLS
    if (is_tls && fd < FD_MAX) {
        sessions[fd] = SSL_new(context);
        SSL_set_fd(sessions[fd], fd);
        SSL_set_accept_state(sessions[fd]);
    }
#endif
    watch(epoll, fd, mode == SOURCE ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void close_one(int fd) {
#ifdef WITH_TLS
    if (is_tls) {
        SSL_shutdown(sessions[fd]);
        SSL_free(sessions[fd]);
        sessions[fd] = NULL;
    }
#endif
    close(fd);
}

/* Send back everything; returns -1 when the peer is gone. */
static int send_all(int fd, const char *data, ssize_t left) {
    while (left > 0) {
        ssize_t sent = -1;
#ifdef WITH_TLS
        if (is_tls) {
            int done = SSL_write(sessions[fd], data, (int)left);
            if (done > 0)
                return 0;
            if (SSL_get_error(sessions[fd], done) != SSL_ERROR_WANT_WRITE)
                return -1;
            errno = EAGAIN;
        } else
#endif
            sent = send(fd, data, (size_t)left, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            struct pollfd room = {.fd = fd, .events = POLLOUT};
            poll(&room, 1, -1);
        } else if (sent < 0) {
            return -1;
        } else {
            data += sent;
            left -= sent;
        }
    }
    return 0;
}

/* Whether there is something to receive that the kernel does not know of any more. */
static int has_more(int fd) {
#ifdef WITH_TLS
    if (is_tls)
        return SSL_has_pending(sessions[fd]);
#endif
    (void)fd;
    return 0;
}

/* Returns the bytes received, 0 at the end, -1 when there are none yet, -2 when it is broken. */
static ssize_t receive(int fd) {
#ifdef WITH_TLS
    if (is_tls) {
        int got = SSL_read(sessions[fd], buffer, sizeof buffer);
        if (got > 0)
            return got;
        int error = SSL_get_error(sessions[fd], got);
        if (error == SSL_ERROR_ZERO_RETURN)
            return 0;
        return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? -1 : -2;
    }
#endif
    ssize_t got = recv(fd, buffer, sizeof buffer, 0);
    return got >= 0 ? got : errno == EAGAIN ? -1 : -2;
}

static int respond(int fd, ssize_t got) {
    if (mode == SINK)
        return 0;
    if (mode == ECHO)
        return send_all(fd, buffer, got);
    for (char *at = buffer; (at = memmem(at, (size_t)(buffer + got - at), "\r\n\r\n", 4)); at += 4)
        if (send_all(fd, answer, sizeof answer - 1) < 0)
            return -1;
    return 0;
}

static void serve(int fd, uint32_t events) {
    if (mode == SOURCE && events & EPOLLOUT) {
        if (send(fd, buffer, sizeof buffer, MSG_NOSIGNAL) < 0 && errno != EAGAIN)
            close_one(fd);
        return;
    }
    ssize_t got;
    do {
        got = receive(fd);
        if (got == 0 || got == -2 || (got > 0 && respond(fd, got) < 0)) {
            close_one(fd);
            return;
        }
    } while (got > 0 && has_more(fd));
}

static void serve_datagrams(int fd) {
    struct sockaddr_in from;
    socklen_t length = sizeof from;
    ssize_t got = recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &length);
    if (got >= 0)
        sendto(fd, buffer, (size_t)got, 0, (struct sockaddr *)&from, length);
}

#ifdef WITH_TLS
static void load(const char *pem) {
    context = SSL_CTX_new(TLS_server_method());
    if (!context || SSL_CTX_use_certificate_chain_file(context, pem) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, pem, SSL_FILETYPE_PEM) != 1) {
        fprintf(stderr, "no certificate in %s\n", pem);
        exit(1);
    }
    /* A record in one receive instead of two. */
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_mode(context, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
}
#endif

int main(int argc, char **argv) {
    struct epoll_event events[EVENTS_MAX];
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    check(epoll, "epoll_create1");
    if (argc < 3)
        return 64;
    is_udp = !strcmp(argv[1], "udp");
    is_tls = !strcmp(argv[1], "tls");
    mode = !strcmp(argv[2], "sink")     ? SINK
           : !strcmp(argv[2], "source") ? SOURCE
           : !strcmp(argv[2], "http")   ? HTTP
                                        : ECHO;
    if (is_tls) {
#ifdef WITH_TLS
        load(argv[3]);
#else
        fprintf(stderr, "built without TLS\n");
        return 1;
#endif
    }
    int listener = strncmp(argv[1], "unix:", 5) ? listen_loopback() : listen_unix(argv[1] + 5);
    watch(epoll, listener, EPOLLIN);
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS_MAX, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd != listener)
                serve(events[i].data.fd, events[i].events);
            else if (is_udp)
                serve_datagrams(listener);
            else
                accept_one(epoll, listener);
        }
    }
}
