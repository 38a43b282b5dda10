/*
 * The request inspector of the paper's Fig. 3, with a rule filled in: requests for /<node>/... go to that node, all
 * others to the node that their URI belongs to.
 *
 *     cc fig3.c $(pkg-config --cflags --libs dts) -o fig3 && ./fig3 web
 */
#include <stdio.h>
#include <string.h>

#include <dts.h>

/* The path and query of the request that begins with buf; 0 while its first line isn't complete. */
static size_t uri(const char *buf, size_t len, const char **begin)
{
    const char *end = memchr(buf, '\n', len);
    const char *space = memchr(buf, ' ', len);

    if (end == NULL || space == NULL || space > end)
        return 0;
    *begin = space + 1;
    return strcspn(*begin, " \r\n");
}

/* Whether a URI is below the directory of a node's name. */
static int is_below(const char *uri, size_t len, const char *name)
{
    size_t n = strlen(name);

    return len > n + 1 && uri[0] == '/' && memcmp(uri + 1, name, n) == 0 && uri[n + 1] == '/';
}

int main(int argc, char **argv)
{
    int inspector = dts_attach(argc > 1 ? argv[1] : "web");

    if (inspector < 0) {
        perror("dts_attach");
        return 1;
    }
    while (1) {
        int s;
        char buf[BUFSIZ];
        ssize_t ret, more;
        const char *path = buf, *target = DTS_LOCAL;
        size_t len;
        struct dts_member node, members[16];
        ssize_t count, i;

        s = dts_accept(inspector);
        if (s < 0) {
            perror("dts_accept");
            return 1;
        }

        ret = dts_read(s, buf, sizeof(buf));

        /* parse the request and determine the target node */
        while (ret > 0 && (len = uri(buf, ret, &path)) == 0) {
            more = dts_read(s, buf + ret, sizeof(buf) - ret);
            if (more <= 0)
                break;
            ret += more;
        }
        if (ret <= 0 || len == 0) {
            dts_close(s); /* gone, or no request: the service's on_undecided says what happens */
            continue;
        }
        if (dts_ring_lookup(inspector, path, len, &node) == 0)
            target = node.name;
        count = dts_members(inspector, members, 16);
        for (i = 0; i < count && i < 16; i++) {
            if (is_below(path, len, members[i].name))
                target = members[i].name;
        }

        if (dts_request_handover(s, target, buf, ret) < 0) {
            perror("dts_request_handover");
            dts_close(s);
        }
    }
}
