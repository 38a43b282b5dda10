/*
 * libdts: for programs that decide which node of a DTS cluster gets a connection. See libdts(3).
 *
 * Functions return -1 and set errno when they fail.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#ifndef DTS_H
#define DTS_H

/* Made by `cargo xtask header` of capi/src/lib.rs. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

/*
 The target of a connection that stays on the node that the ring of connections chose: the one that
 the program runs on.
 */
#define DTS_LOCAL "local"

/*
 The room for a member's name, its final zero included.
 */
#define DTS_NAME_SIZE 64

/*
 The room for a member's address as text, its final zero included.
 */
#define DTS_ADDRESS_SIZE 46

/*
 A node of the cluster.
 */
struct dts_member {
  /*
   Its name, which can be the target of a connection.
   */
  char name[DTS_NAME_SIZE];
  /*
   Its back address as text.
   */
  char address[DTS_ADDRESS_SIZE];
  /*
   Whether it is the node that the program runs on.
   */
  bool own;
};

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 Attaches to a service of this node, by its name or by the path of its socket (anything with a slash in it).

 Returns the inspector: a descriptor for poll(2) and its kin, which can be read when dts_accept() or dts_ready() has
 something. Nothing but this library may read or close it: dts_detach() does.

 `service` is a string that ends with a zero.
 */
int dts_attach(const char *service);

/*
 Ends an attachment. Its connections that are undecided get what the service's `on_undecided` says.
 */
int dts_detach(int inspector);

/*
 Says whether dts_accept(), and dts_read() from the inspector's connections, wait until there is something (they do
 at first) or fail with EAGAIN.
 */
int dts_set_nonblocking(int inspector,
                        bool nonblocking);

/*
 Waits for the next connection whose client has sent something, and returns its number. That is not a descriptor;
 it is used once.
 */
int dts_accept(int inspector);

/*
 Returns the next of the accepted connections that has something to be read, or is over; EAGAIN when there is none.
 Never waits. Each is returned once for each time that something came, so read until EAGAIN.
 */
int dts_ready(int inspector);

/*
 Reads what the client has sent, from its first byte on; waits for more when all has been read. Returns 0 when nothing
 more will be shown: the client has closed its side, or has sent as much as it may (`undecided_bytes`).

 `buf` has room for `len` bytes.
 */
ssize_t dts_read(int s,
                 void *buf,
                 size_t len);

/*
 Has a connection handed over to `target`: a member's name or back address, `DTS_LOCAL`, or NULL for the service's
 default target. `buf` has the `len` bytes that were read from it, all of them: a request can't be changed.

 Returns 0 when the daemon has been told; `s` means nothing any more then. EINVAL when the bytes are not those that
 were read, EHOSTUNREACH when there is no such node: another attempt may be made, or dts_close(). After any other
 error the connection is over, and `s` means nothing any more.

 `target` is NULL or a string that ends with a zero, and `buf` has `len` bytes.
 */
int dts_request_handover(int s,
                         const char *target,
                         const void *buf,
                         size_t len);

/*
 Has a connection's client get a reset. `s` means nothing any more afterwards.
 */
int dts_reject(int s);

/*
 Leaves a connection to what the service's `on_undecided` says. `s` means nothing any more afterwards.
 */
int dts_close(int s);

/*
 The client's address, as getpeername(2) tells it.

 `addr` has room for `*len` bytes.
 */
int dts_getpeername(int s, struct sockaddr *addr, socklen_t *len);

/*
 The service's address, as getsockname(2) tells it.

 `addr` has room for `*len` bytes.
 */
int dts_getsockname(int s, struct sockaddr *addr, socklen_t *len);

/*
 Tells the nodes of the cluster, as many as `count` has room for. Returns how many there are.

 `members` has room for `count` members.
 */
ssize_t dts_members(int inspector, struct dts_member *members, size_t count);

/*
 Tells the number of the cluster's ring, which is higher after each change of the members.

 `epoch` points to a number.
 */
int dts_epoch(int inspector, uint64_t *epoch);

/*
 Tells the node that a key belongs to on the ring of requests. With a request's target (path and query) as the key,
 it is the one that `to = { hash = "uri" }` would choose.

 `key` has `len` bytes, and `node` points to a member.
 */
int dts_ring_lookup(int inspector,
                    const void *key,
                    size_t len,
                    struct dts_member *node);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* DTS_H */
