/*
 * Calls everything that libdts has, and checks what it returns: `calls SERVICE PORT ADDRESS`. Two clients are expected: the
 * first, from PORT, sends a request in parts, which goes to n2, whose back address is ADDRESS; the second is reset. Says
 * "done" at the end.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <dts.h>

#define CHECK(what)                                                                            \
    do {                                                                                       \
        if (!(what)) {                                                                         \
            fprintf(stderr, "line %d: %s (errno %d)\n", __LINE__, #what, errno);              \
            exit(1);                                                                           \
        }                                                                                      \
    } while (0)

#define FAILS(call, error) CHECK((errno = 0, (call)) == -1 && errno == (error))

static void wait_for_news(int inspector)
{
    struct pollfd polled = {.fd = inspector, .events = POLLIN};

    CHECK(poll(&polled, 1, 20000) == 1);
}

/* The port of an address that takes size bytes. */
static int port_of(const struct sockaddr_storage *address, socklen_t size)
{
    if (address->ss_family == AF_INET6) {
        CHECK(size == sizeof(struct sockaddr_in6));
        return ntohs(((const struct sockaddr_in6 *)address)->sin6_port);
    }
    CHECK(address->ss_family == AF_INET && size == sizeof(struct sockaddr_in));
    return ntohs(((const struct sockaddr_in *)address)->sin_port);
}

int main(int argc, char **argv)
{
    struct dts_member members[2], node;
    struct sockaddr_storage peer;
    socklen_t size = sizeof(peer);
    uint64_t epoch = 0;
    char buf[4096];
    size_t len = 0;
    ssize_t ret;
    int inspector, s;

    CHECK(argc == 4);
    FAILS(dts_attach("/nowhere/x"), ENOENT);
    FAILS(dts_attach(NULL), EFAULT);
    inspector = dts_attach(argv[1]);
    CHECK(inspector >= 0);

    CHECK(dts_epoch(inspector, &epoch) == 0 && epoch > 0);
    CHECK(dts_members(inspector, NULL, 0) == 2);
    CHECK(dts_members(inspector, members, 2) == 2);
    CHECK(strcmp(members[0].name, "n1") == 0 && members[0].own);
    CHECK(strcmp(members[1].name, "n2") == 0 && !members[1].own);
    CHECK(strcmp(members[1].address, argv[3]) == 0);
    CHECK(dts_ring_lookup(inspector, "/x", 2, &node) == 0);
    CHECK(strcmp(node.name, "n1") == 0 || strcmp(node.name, "n2") == 0);

    CHECK(dts_set_nonblocking(inspector, true) == 0);
    FAILS(dts_accept(inspector), EAGAIN);
    FAILS(dts_ready(inspector), EAGAIN);
    wait_for_news(inspector);
    s = dts_accept(inspector);
    CHECK(s >= 0);
    FAILS(close(s), EBADF);
    while (len < 4 || memcmp(buf + len - 4, "\r\n\r\n", 4) != 0) {
        ret = dts_read(s, buf + len, sizeof(buf) - len);
        if (ret < 0) {
            CHECK(errno == EAGAIN);
            wait_for_news(inspector);
            ret = dts_ready(inspector);
            CHECK(ret == s || (ret < 0 && errno == EAGAIN));
            continue;
        }
        CHECK(ret > 0);
        len += ret;
    }
    CHECK(dts_getpeername(s, (struct sockaddr *)&peer, &size) == 0);
    CHECK(peer.ss_family == (strchr(argv[3], ':') == NULL ? AF_INET : AF_INET6));
    CHECK(port_of(&peer, size) == atoi(argv[2]));
    CHECK(dts_getsockname(s, (struct sockaddr *)&peer, &size) == 0);
    CHECK(port_of(&peer, size) == 80);

    FAILS(dts_request_handover(s, "n3", buf, len), EHOSTUNREACH);
    FAILS(dts_request_handover(s, "n2", buf, len - 1), EINVAL);
    FAILS(dts_request_handover(s, "n2", buf + 1, len - 1), EINVAL);
    FAILS(dts_request_handover(s, "n2", NULL, len), EFAULT);
    CHECK(dts_request_handover(s, "n2", buf, len) == 0);
    FAILS(dts_request_handover(s, "n2", buf, len), EBADF);
    FAILS(dts_read(s, buf, sizeof(buf)), EBADF);

    CHECK(dts_set_nonblocking(inspector, false) == 0);
    s = dts_accept(inspector);
    CHECK(s >= 0);
    CHECK(dts_reject(s) == 0);
    FAILS(dts_close(s), EBADF);

    CHECK(dts_detach(inspector) == 0);
    FAILS(dts_detach(inspector), EBADF);
    FAILS(dts_accept(inspector), EBADF);
    puts("done");
    return 0;
}
