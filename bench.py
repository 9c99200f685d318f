#!/usr/bin/env python3
"""bench - cscan, masscanned and the file tools against their peers and the kernel's limit.

    sudo python3 bench.py --quick       three minutes; without it a quarter of an hour

Standard library only, Linux, root; it stands beside the tools.  Nothing leaves the machine:
each measurement has network namespaces of its own, without names, that end with this process.

Contents
    1 Figures           medians, ratios, the table
    2 Yardsticks        one C program: the fewest system calls that do the work
    3 Net               processes, namespaces, counters
    4 Load              what runs in processes of its own: flood, clients, timed calls
    5 Registry          @measure
    6 Scanner           measurements of cscan.py
    7 Responder         measurements of masscanned.py
    8 Files             measurements of CBA files and compile_targets.py
    9 Report            the machine, bench.json
    10 Command line

How it measures
    A measurement has contestants.  All of them run in turn in each of three rounds; a ratio is
    that of two figures of the same round, and the median of the rounds' ratios is shown.
    Figures themselves depend on the machine and on who else uses it.
    Counting begins after the first frame, so start-up is not in a rate.  Connects are counted by
    the kernel (ActiveOpens), frames by the interface, so that no contestant counts for itself.
    The scanner runs on the first core; the kernel answers for its targets on the same one.
    The responder runs on the last core, its flood on the first.  A C program is the yardstick of
    both: what it reaches with the plainest system calls is what the kernel gives.
"""

import argparse
import atexit
import collections
import contextlib
import cscan
import ctypes
import fnmatch
import functools
import hashlib
import itertools
import json
import os
import platform
import re
import resource
import select
import shutil
import signal
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))


# ==== 1 Figures =======================================================================

ROUNDS = 3

Figure = collections.namedtuple('Figure', [
    'name',         # of the contestant
    'take',         # () -> a figure of this round; raises Failed
    'base'])        # name of the row it is compared with, '' = none
Missing = collections.namedtuple('Missing', ['name', 'reason'])


class Failed(Exception):
    """A contestant that could not be measured, in one line: why."""


def ratios(figures, base) -> 'list[float]':
    """Two rows' figures, a round each, None = failed -> their ratios, of rounds with both."""
    return [figure / other for figure, other in zip(figures, base)
            if figure is not None and other]


def median(figures) -> 'float | None':
    """Figures, None = failed -> their median, None if there are none."""
    known = [figure for figure in figures if figure is not None]
    return statistics.median(known) if known else None


def summarize(rows, figures) -> 'list[dict]':
    """Rows and {name: figures of the rounds} -> what bench.json keeps of each."""
    found = []
    for row in rows:
        shares = ratios(figures[row.name], figures.get(row.base, ()))
        found.append({'name': row.name, 'rounds': figures[row.name],
                      'median': median(figures[row.name]), 'base': row.base,
                      'ratios': shares, 'ratio': median(shares)})
    return found


def figure_text(number: 'float | None') -> str:
    """1234567.8 -> '1,234,568', 12.34 -> '12.3', 0.1234 -> '0.123', None -> 'failed'."""
    if number is None:
        return 'failed'
    if number >= 100 or number == int(number):
        return '{:,.0f}'.format(number)
    return '%.1f' % number if number >= 10 else '%.2f' % number if number >= 1 else '%.3f' % number


def table_text(result) -> str:
    """What bench.json keeps of a measurement -> its part of the table."""
    lines = ['%s: %s, %s' % (result['name'], result['about'], result['unit'])]
    wide = max([len(row['name']) for row in result['rows']] + [1])
    for row in result['rows']:
        line = '  %-*s %13s' % (wide, row['name'], figure_text(row['median']))
        if row['ratio'] is not None:
            line += '   %6.2f x %s  (%s)' % (row['ratio'], row['base'], ' '.join(
                '%.2f' % share for share in row['ratios']))
        lines.append(line)
    lines += ['  left out: %s: %s' % tuple(pair) for pair in result['missing']]
    lines += ['  note: ' + note for note in result['notes']]
    return '\n'.join(lines)


# ==== 2 Yardsticks ====================================================================

# connect BASE BITS PORT PORTS N ANSWERS: N sockets in turn, one connect() to a random target each.
#   ANSWERS 0: none is awaited, shutdown() takes the socket back; 1: the next connect() on the
#   socket tells what became of the one before.
# answer IFACE [trust]: SYNs, requests over TCP (each segment is one, its answer a constant), FINs
#   and DNS queries, verified and answered without any memory, one recvfrom() and sendto() each;
#   trust: what a kernel sends on a veth pair has no finished sums of layer 4.
# flood IFACE KIND BASE BITS: to random targets, from 16 million addresses, SYNs, a mix, or one
#   request over UDP, with ever new ids if it has one: dns, names (DNS with ever new names), ntp,
#   snmp, ssdp, rpc (what a portmapper has).  Of the mix are 70 % SYNs without options, with an
#   MSS or with a Linux client's, 20 % UDP probes (dns, ntp, snmp, ssdp), 5 % pings, 5 % RSTs;
#   every other is padded to 60.
# listen PORT BACKLOG: accept on every address, and close at once.
# http BASE BITS N COUNT: complete exchanges, N at a time, each on a connection of its own, COUNT
#   in all (0: for ever); each 0.1 s, and at the end, a line: seconds, exchanges, failures.
YARDSTICKS = r'''
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netpacket/packet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static uint32_t drawn = 12345, base, mask;

static uint32_t draw(void) { return (drawn = drawn * 1664525u + 1013904223u) >> 8; }

static uint32_t target(void) { return htonl(base | (draw() & mask)); }

static void set_targets(char **v) {
    base = ntohl(inet_addr(v[0]));
    mask = (1u << (32 - atoi(v[1]))) - 1;
}

static int die(const char *what) { perror(what); exit(1); }

static int open_socket(void) {
    struct linger linger = {1, 0};
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(32005)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_SYNCNT, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    if (bind(fd, (void *)&own, sizeof own)) die("bind");
    return fd;
}

/* what had ended before (retransmissions over while we were halted) is dead after shutdown() */
static void take_back(int fd) {
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    if (shutdown(fd, SHUT_RDWR)) connect(fd, &none, sizeof none);
}

static void do_connect(char **v) {
    int port = atoi(v[2]), ports = atoi(v[3]), n = atoi(v[4]), answers = atoi(v[5]);
    int *fds = malloc(n * sizeof *fds);
    struct sockaddr_in to = {.sin_family = AF_INET};
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    set_targets(v);
    for (int i = 0; i < n; i++) fds[i] = open_socket();
    for (long turn = 0;; turn++) {
        int fd = fds[turn % n];
        if (turn >= n && answers) {
            if (connect(fd, (void *)&to, sizeof to) == 0 || errno == EISCONN)
                connect(fd, &none, sizeof none);
            else if (errno == EALREADY)
                take_back(fd);
        } else if (turn >= n)
            take_back(fd);
        to.sin_addr.s_addr = target();
        to.sin_port = htons(port + draw() % ports);
        connect(fd, (void *)&to, sizeof to);
    }
}

static unsigned sum(const unsigned char *p, int n, unsigned s) {
    for (; n > 1; p += 2, n -= 2) s += p[0] << 8 | p[1];
    if (n) s += p[0] << 8;
    while (s >> 16) s = (s & 0xffff) + (s >> 16);
    return s;
}

static void put(unsigned char *p, unsigned value) { p[0] = value >> 8; p[1] = value; }

/* both checksums of an IPv4 frame whose payload of `size` octets has its own at `at` */
static void seal(unsigned char *f, int size, int at) {
    put(f + 16, 20 + size); put(f + 24, 0); put(f + 34 + at, 0);
    put(f + 24, ~sum(f + 14, 20, 0));
    put(f + 34 + at, ~sum(f + 34, size, sum(f + 26, 8, f[23] + size)));
}

static int open_packet(const char *iface, int protocol) {
    int one = 1, fd = socket(AF_PACKET, SOCK_RAW, htons(protocol));
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(protocol)};
    at.sll_ifindex = if_nametoindex(iface);
    if (fd < 0 || bind(fd, (void *)&at, sizeof at)) die(iface);
    setsockopt(fd, SOL_PACKET, protocol ? 23 : 20, &one, sizeof one);  /* no outgoing, no qdisc */
    return fd;
}

static const unsigned char ip_head[12] = {0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6};
static const unsigned char record[16] = {0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4};
static const char page[] = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";

/* a segment -> octets of the answer behind the ports; 0: none is due */
static int answer_tcp(const unsigned char *in, unsigned char *out, int size) {
    int flags = in[13] & 0x3f, at = in[12] >> 4 << 2, data = size - at, syn = flags == 2;
    uint32_t seq = 0, ack;
    if (at > size || flags & 4 || (!syn && !data && !(flags & 1))) return 0;
    if (syn)
        for (int i = -8; i < 4; i++) seq = seq * 31 + in[i];
    else
        memcpy(&seq, in + 8, 4);
    memcpy(&ack, in + 4, 4);
    ack = htonl(ntohl(ack) + data + (flags & 3 ? 1 : 0));
    memcpy(out + 4, &seq, 4); memcpy(out + 8, &ack, 4);
    out[12] = 0x50; out[13] = data ? 0x18 : 0x10 | (flags & 3);
    put(out + 14, 65535); put(out + 18, 0);
    if (!data) return 20;
    memcpy(out + 20, page, sizeof page - 1);
    return 20 + sizeof page - 1;
}

static void do_answer(char **v) {
    int fd = open_packet(v[0], ETH_P_ALL), trusts = v[1] != 0;
    unsigned char in[65536], out[2048];
    for (;;) {
        fd_set ready;
        FD_ZERO(&ready);
        FD_SET(fd, &ready);
        if (select(fd + 1, &ready, 0, 0, 0) < 1) continue;
        int got = recvfrom(fd, in, sizeof in, 0, 0, 0), size = (in[16] << 8 | in[17]) - 20;
        if (got < 54 || got > 1500 || in[12] != 8 || in[13] || size > got - 34) continue;
        int tcp = in[23] == 6 && size >= 20, dns = in[23] == 17 && in[37] == 53;
        if (!tcp && !dns) continue;
        if (sum(in + 14, 20, 0) != 0xffff) continue;
        if (!trusts && sum(in + 34, size, sum(in + 26, 8, in[23] + size)) != 0xffff) continue;
        memcpy(out, in + 6, 6); memcpy(out + 6, in, 6); put(out + 12, ETH_P_IP);
        memcpy(out + 14, ip_head, 12); out[23] = in[23];
        memcpy(out + 26, in + 30, 4); memcpy(out + 30, in + 26, 4);
        memcpy(out + 34, in + 36, 2); memcpy(out + 36, in + 34, 2);
        if (tcp) {
            size = answer_tcp(in + 34, out + 34, size);
            if (!size) continue;
        } else {
            memcpy(out + 42, in + 42, size - 8);
            put(out + 44, 0x8400); put(out + 48, 1);
            memcpy(out + 34 + size, record, 16);
            memcpy(out + 34 + size + 12, in + 30, 4);
            size += 16;
            put(out + 38, size);
        }
        seal(out, size, tcp ? 16 : 6);
        sendto(fd, out, 34 + size, 0, 0, 0);
    }
}

static const unsigned char query[] = "\0\1\1\0\0\1\0\0\0\0\0\0\7example\3org\0\0\1\0\1";

static const char ntp[48] = "\xe3\0\4\xfa\0\1\0\0\0\1";
static const char snmp[] = "\60\46\2\1\1\4\6public\240\31\2\1\1\2\1\0\2\1\0"
                           "\60\16\60\14\6\10\53\6\1\2\1\1\1\0\5\0";
static const char search[] = "M-SEARCH * HTTP/1.1\r\nHOST:239.255.255.250:1900\r\n"
    "MAN:\"ssdp:discover\"\r\nMX:1\r\nST:ssdp:all\r\n\r\n";
static const char dump[40] = "\0\0\0\0\0\0\0\0\0\0\0\2\0\1\x86\xa0\0\0\0\2\0\0\0\4";
/* id: octets of an id in front; name: where seven others differ, too */
static const struct request { const char *kind; int port, size, id, name; const void *text; }
requests[] = {
    {"dns", 53, sizeof query - 1, 2, 0, query},
    {"names", 53, sizeof query - 1, 2, 13, query},
    {"ntp", 123, sizeof ntp, 0, 0, ntp},
    {"snmp", 161, sizeof snmp - 1, 0, 0, snmp},
    {"ssdp", 1900, sizeof search - 1, 0, 0, search},
    {"rpc", 111, sizeof dump, 4, 0, dump}};

static const struct request *find_request(const char *kind) {
    for (unsigned i = 0; i < sizeof requests / sizeof *requests; i++)
        if (!strcmp(requests[i].kind, kind)) return requests + i;
    return NULL;
}

static void vary(unsigned char *f, const struct request *asked) {
    uint32_t id = draw() << 8 ^ draw();
    memcpy(f, &id, asked->id);
    for (int i = 0; asked->name && i < 7; i++) f[asked->name + i] = 'a' + draw() % 26;
}

enum { BATCH = 64, ROOM = 192 };

static const unsigned char options[] = "\2\4\5\xb4\4\2\10\12\0\0\0\1\0\0\0\0\1\3\3\7";
static const int option_sizes[] = {0, 4, 20};
static const struct { int port, size; const char *text; } probes[] = {
    {53, sizeof query - 1, (const char *)query},
    {123, sizeof ntp, ntp},
    {161, sizeof snmp - 1, snmp},
    {1900, 51, "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n\r\n"}};

/* layer 4 of a frame of the mix, its ports in place -> octets of it */
static int make_mixed(unsigned char *f) {
    unsigned kind = draw() % 100, size, at = 16;
    uint32_t seq = draw();
    memset(f + 36, 0, ROOM - 36);
    if (kind < 70 || kind >= 95) {
        size = kind < 70 ? option_sizes[draw() % 3] : 0;
        f[23] = 6; put(f + 36, 80); memcpy(f + 38, &seq, 4);
        f[46] = (20 + size) << 2; f[47] = kind < 70 ? 2 : 4; put(f + 48, 1024);
        memcpy(f + 54, options, size);
        size += 20;
    } else if (kind < 90) {
        kind = draw() % 4;
        size = 8 + probes[kind].size; at = 6;
        f[23] = 17; put(f + 36, probes[kind].port); put(f + 38, size);
        memcpy(f + 42, probes[kind].text, probes[kind].size);
    } else {
        size = 64; at = 2;
        f[23] = 1; put(f + 34, 0x0800); memcpy(f + 38, &seq, 4);
    }
    seal(f, size, at);
    if (at == 2) { put(f + 36, 0); put(f + 36, ~sum(f + 34, size, 0)); }    /* no pseudo-header */
    return size;
}

static void do_flood(char **v) {
    static unsigned char frames[BATCH][ROOM];
    static struct iovec parts[BATCH];
    static struct mmsghdr messages[BATCH];
    int fd = open_packet(v[0], 0), mixed = *v[1] == 'm';
    const struct request *asked = find_request(v[1]);
    int size = asked ? 8 + asked->size : 20;
    uint32_t from = 0;
    set_targets(v + 2);
    for (int i = 0; i < BATCH; i++) {
        unsigned char *f = frames[i];
        memcpy(f, "\2\0\0\0\0\2\2\0\0\0\0\x99\10\0", 14);
        memcpy(f + 14, ip_head, 12);
        f[23] = asked ? 17 : 6;
        put(f + 36, asked ? asked->port : 80); put(f + 38, size);
        if (asked) memcpy(f + 42, asked->text, asked->size);
        else { put(f + 46, 0x5002); put(f + 48, 1024); }
        parts[i].iov_base = f; parts[i].iov_len = 34 + size;
        messages[i].msg_hdr.msg_iov = parts + i; messages[i].msg_hdr.msg_iovlen = 1;
    }
    for (;;) {
        for (int i = 0; i < BATCH; i++) {
            uint32_t to = target(), src = htonl(11u << 24 | (from++ & 0xffffff)), seq = draw();
            memcpy(frames[i] + 26, &src, 4); memcpy(frames[i] + 30, &to, 4);
            put(frames[i] + 34, 1024 + draw() % 60000);
            if (mixed) {
                size = 34 + make_mixed(frames[i]);
                parts[i].iov_len = size < 60 && i & 1 ? 60 : size;
                continue;
            }
            if (asked) vary(frames[i] + 42, asked);
            else memcpy(frames[i] + 38, &seq, 4);
            seal(frames[i], size, asked ? 6 : 16);
        }
        sendmmsg(fd, messages, BATCH, 0);
    }
}

struct talk { int fd, asked, got; char text[8192]; };

static int to_end;      /* read to the end of the server and reset, as a scanner of banners does */

static void begin(struct talk *t, int epoll) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(80)};
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = t};
    t->asked = t->got = 0;
    t->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (t->fd < 0) die("socket");
    struct linger linger = {1, 0};
    if (to_end) setsockopt(t->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    to.sin_addr.s_addr = target();
    epoll_ctl(epoll, EPOLL_CTL_ADD, t->fd, &event);
    connect(t->fd, (void *)&to, sizeof to);
}

static int is_whole(struct talk *t) {
    char *end, *length;
    t->text[t->got] = 0;
    end = strstr(t->text, "\r\n\r\n");
    end = end ? end + 4 : (end = strstr(t->text, "\n\n")) ? end + 2 : NULL;   /* LF alone */
    length = strcasestr(t->text, "\nContent-Length:");
    return end && length && t->got >= end - t->text + atoi(length + 16);
}

/* one event of an exchange -> 1 done, -1 failed, 0 under way */
static int go_on(struct talk *t, unsigned events) {
    const char *ask = to_end ? "GET / HTTP/1.0\r\nHost: bench\r\n\r\n" :
                               "GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
    if (events & EPOLLERR || (events & EPOLLHUP && !to_end)) return -1;
    if (!t->asked && events & EPOLLOUT && send(t->fd, ask, strlen(ask), 0) > 0) t->asked = 1;
    if (!(events & EPOLLIN)) return 0;
    int got = recv(t->fd, t->text + t->got, sizeof t->text - 1 - t->got, 0);
    while (to_end && got > 0) {         /* edge-triggered: the end may have come with it */
        t->got += got;
        got = recv(t->fd, t->text + t->got, sizeof t->text - 1 - t->got, 0);
    }
    if (got == 0 && to_end && t->got) return 1;
    if (got <= 0) return errno == EAGAIN && got < 0 ? 0 : -1;
    t->got += got;
    return to_end ? got == 0 : is_whole(t);
}

static double tell(double due, long done, long failed) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    double now = time.tv_sec + time.tv_nsec / 1e9;
    if (now < due) return due;
    printf("%.6f %ld %ld\n", now, done, failed);
    fflush(stdout);
    return now + 0.1;
}

static void do_http(char **v) {
    int n = atoi(v[2]), epoll = epoll_create1(0);
    long most = atol(v[3]), done = 0, failed = 0;
    struct talk *talks = calloc(n, sizeof *talks);
    struct epoll_event events[256];
    double due = 0;
    set_targets(v);
    for (int i = 0; i < n; i++) begin(talks + i, epoll);
    while (!most || done < most) {
        int count = epoll_wait(epoll, events, 256, 100);
        for (int i = 0; i < count; i++) {
            struct talk *t = events[i].data.ptr;
            int end = go_on(t, events[i].events);
            if (!end) continue;
            if (end > 0) done++; else failed++;
            close(t->fd);
            begin(t, epoll);
        }
        due = tell(due, done, failed);
    }
    tell(0, done, failed);
}

static void do_listen(char **v) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(atoi(v[0]))};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (void *)&own, sizeof own) || listen(fd, atoi(v[1]))) die("listen");
    for (;;) close(accept(fd, NULL, NULL));
}

int main(int count, char **v) {
    if (count < 3) return 2;
    switch (v[1][0]) {
    case 'c': do_connect(v + 2); break;
    case 'a': do_answer(v + 2); break;
    case 'f': do_flood(v + 2); break;
    case 'l': do_listen(v + 2); break;
    case 'b': to_end = 1;               /* fall through */
    case 'h': do_http(v + 2); return 0;
    }
    return 2;
}
'''


# ==== 3 Net ===========================================================================

CLONE_NEWNET = 0x40000000       # linux/sched.h
PR_SET_PDEATHSIG = 1            # linux/prctl.h
NEAR_MAC, FAR_MAC = '02:00:00:00:00:01', '02:00:00:00:00:02'
SHARED, LOOKS = 0.1, 3          # a window that lost so much of its core is repeated so often
START_S = 20                    # a contestant that has not begun by then has failed
CLEAN = {'PATH': os.environ.get('PATH', '') + ':/usr/sbin:/sbin:/usr/bin:/bin', 'HOME': '/tmp',
         'LC_ALL': 'C', 'PYTHONDONTWRITEBYTECODE': '1'}
LIBC = ctypes.CDLL(None, use_errno=True)


def cores() -> 'list[int]':
    """The cores we may use; PyPy has no os.sched_getaffinity."""
    text = re.search(r'^Cpus_allowed_list:\s*(\S+)', read_text('/proc/self/status'), re.M).group(1)
    pairs = [part.split('-') for part in text.split(',')]
    return [core for pair in pairs for core in range(int(pair[0]), int(pair[-1]) + 1)]


def pin(core):
    """Keep this process to a core."""
    words = [1 << core % 64 if number == core // 64 else 0 for number in range(16)]
    mask = struct.pack('=16Q', *words)      # cpu_set_t
    if LIBC.sched_setaffinity(0, len(mask), mask):
        raise OSError(ctypes.get_errno(), 'sched_setaffinity')


def spawn(command, net=None, pinned=None, **options) -> subprocess.Popen:
    """Start a process that cannot outlive us.

    net     descriptor of its network namespace; 'new' = one of its own; None = ours
    pinned  its core, None = all
    """
    def enter():
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if net == 'new' and LIBC.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), 'unshare')
        if isinstance(net, int) and LIBC.setns(net, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), 'setns')
        if pinned is not None:
            pin(pinned)
    options.setdefault('stdout', subprocess.DEVNULL)
    options.setdefault('stdin', subprocess.DEVNULL)
    return subprocess.Popen([str(word) for word in command], preexec_fn=enter, env=CLEAN,
                            start_new_session=True, **options)


def kill(process):
    """End a process and its group at once; wait for it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream:
            stream.close()


def halt(process):
    """Stop a process, to go on by SIGCONT; it has stopped, or ended, when this returns."""
    os.kill(process.pid, signal.SIGSTOP)
    path = '/proc/%d/stat' % process.pid
    while read_text(path).rpartition(')')[2].split()[:1] not in (['T'], ['Z'], ['X'], []):
        time.sleep(0)


def read_text(path: str) -> str:
    """A file -> its text, '' if it is not there (any more)."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ''


def cpu_s(pid: int) -> float:
    """CPU seconds of a process, user and system, of its threads that live."""
    spent = [read_text('/proc/%d/task/%s/schedstat' % (pid, thread)).split()
             for thread in list_folder('/proc/%d/task' % pid)]
    return sum(int(words[0]) for words in spent if words) / 1e9


def wait_s(pid: int) -> float:
    """Seconds that the main thread of a process could have run, and somebody else did."""
    words = read_text('/proc/%d/schedstat' % pid).split()
    return int(words[1]) / 1e9 if words else 0.0


def list_folder(path: str) -> 'list[str]':
    """A folder of /proc -> its names, none if it is not there (any more)."""
    try:
        return os.listdir(path)
    except OSError:
        return []


def memory_kb(pid: int, field: str) -> int:
    """VmRSS or VmHWM of a process; mapped rings are in it."""
    match = re.search(r'^%s:\s+(\d+) kB' % field, read_text('/proc/%d/status' % pid), re.M)
    return int(match.group(1)) if match else 0


def kernel_kb() -> int:
    """What the whole machine's kernel has in its slabs: sockets among it."""
    return int(re.search(r'^Slab:\s+(\d+)', read_text('/proc/meminfo'), re.M).group(1))


Look = collections.namedtuple('Look', [
    'time_s', 'count',
    'cpu_s',                # of the process that is watched
    'wait_s',               # it or its load could have run so long, and somebody else did
    'sent'])                # frames of the near side


class Lab:
    """Two namespaces and the processes of a measurement; close() ends them all.

    near v0 10.77.0.1       scanners, floods, clients; everything else by 10.77.0.2
    far  v1                 responders; with `kernel` it has 10.77.0.2 and answers itself:
                            10.64.0.0/10 is its own, 10.128.0.0/9 it swallows
    """

    SETUP = """
        link add v0 netns NEAR address %s type veth peer name v1 netns FAR address %s
        near link set lo up; near addr add 10.77.0.1/24 dev v0; near link set v0 up
        near neigh add 10.77.0.2 lladdr %s dev v0 nud permanent
        near route add 10.0.0.0/8 via 10.77.0.2
        far link set lo up; far link set v1 up""" % (NEAR_MAC, FAR_MAC, FAR_MAC)
    KERNEL = """
        far addr add 10.77.0.2/24 dev v1
        far neigh add 10.77.0.1 lladdr %s dev v1 nud permanent
        far route add local 10.64.0.0/10 dev lo; far route add blackhole 10.128.0.0/9""" % NEAR_MAC

    def __init__(self, kernel, warm_s, window_s):
        self.warm_s, self.window_s = warm_s, window_s
        self.looks = self.shared = 0    # windows, those that others disturbed
        self.processes = []             # all of ours that have not been waited for
        self.nets = {}                  # 'near', 'far': descriptor of the namespace
        self.anchors = {}               # 'near', 'far': the process that holds it
        for side in ('near', 'far'):
            self.make(side, is_deaf=side == 'far' and not kernel)
        for line in (self.SETUP + (self.KERNEL if kernel else '')).replace('\n', ';').split(';'):
            if line.strip():
                self.ip(line.split())

    def make(self, side, is_deaf):
        """A namespace; IPv6 sends of its own accord, so it is off.

        is_deaf  its kernel need not look for connections of its own: a flood is 15 % faster
        """
        quiet = 'for name in all default; do echo 1 > /proc/sys/net/ipv6/conf/$name/' \
                'disable_ipv6; done 2>/dev/null; %s echo made; exec cat' % (
                    '{ echo 0 > /proc/sys/net/ipv4/tcp_early_demux; } 2>/dev/null;' * is_deaf)
        try:
            anchor = spawn(['/bin/sh', '-c', quiet], 'new', stdin=subprocess.PIPE,
                           stdout=subprocess.PIPE)
        except subprocess.SubprocessError:      # unshare() failed, in the child
            raise cscan.UserError('network namespaces: the kernel lets us make none; '
                                  'in a container: --privileged') from None
        self.processes.append(anchor)
        self.anchors[side] = anchor
        anchor.stdout.readline()
        self.nets[side] = os.open('/proc/%d/ns/net' % anchor.pid, os.O_RDONLY | os.O_CLOEXEC)

    def ip(self, words):
        """One `ip` command; its first word may be the side where it runs."""
        net = self.nets.get(words[0])
        words = [str(self.anchors[word.lower()].pid) if word in ('NEAR', 'FAR') else word
                 for word in words[net is not None:]]
        process = spawn(['ip'] + words, net, stderr=subprocess.PIPE)
        error = process.communicate()[1]
        if process.returncode:
            raise cscan.UserError('ip %s: %s' % (' '.join(words), error.decode().strip()))

    def start(self, side, command, pinned=None, **options) -> subprocess.Popen:
        """A process on one side."""
        process = spawn(command, self.nets[side], pinned, **options)
        self.processes.append(process)
        return process

    @contextlib.contextmanager
    def running(self, side, command, pinned=None, **options):
        """The same, as long as the block lasts; its standard error is kept for Failed."""
        with tempfile.TemporaryFile() as errors:
            options.setdefault('stderr', errors)
            process = self.start(side, command, pinned, **options)
            process.errors = errors
            try:
                yield process
            finally:
                kill(process)
                self.processes.remove(process)

    def packets(self, side, way) -> int:
        """Frames that went ('tx') or came ('rx') on a side."""
        text = read_text('/proc/%d/net/dev' % self.anchors[side].pid)
        fields = re.search(r'\bv[01]:(.*)', text).group(1).split()
        return int(fields[{'rx': 1, 'tx': 9}[way]])

    def connects(self) -> int:
        """connect() calls of the near side that sent a SYN."""
        text = read_text('/proc/%d/net/snmp' % self.anchors['near'].pid)
        names, numbers = re.findall(r'^Tcp: (.*)', text, re.M)
        return int(dict(zip(names.split(), numbers.split()))['ActiveOpens'])

    def watch(self, process, count, settle_s=0.0, load=None) -> Look:
        """Wait for the first count, let it warm up -> what happens in a window.

        load    the process that keeps it busy, if there is one
        If others took a core away meanwhile, look again; the least disturbed window counts.
        """
        self.warm(process, count, settle_s)
        looks = [self.look_twice(process, count, load)]
        while looks[-1].wait_s > SHARED * looks[-1].time_s and len(looks) < LOOKS:
            looks.append(self.look_twice(process, count, load))
        best = min(looks, key=lambda look: look.wait_s / look.time_s)
        self.looks += 1
        self.shared += best.wait_s > SHARED * best.time_s
        return best

    def warm(self, process, count, settle_s=0.0):
        """Wait for the first count, and as long as it takes to be in full swing."""
        first, end = count(), time.monotonic() + START_S
        while count() == first:
            check_alive(process)
            if time.monotonic() > end:
                raise Failed('nothing came in %d s' % START_S)
            time.sleep(0.01)
        time.sleep(self.warm_s + settle_s)

    def look_twice(self, process, count, load) -> Look:
        """What a window's length changes."""
        before = self.look(process, count), wait_s(load.pid) if load else 0
        time.sleep(self.window_s)
        after = self.look(process, count), wait_s(load.pid) if load else 0
        check_alive(process)
        found = Look(*(b - a for a, b in zip(before[0], after[0])))
        return found._replace(wait_s=max(found.wait_s, after[1] - before[1]))

    def look(self, process, count) -> Look:
        """What there is now."""
        return Look(time.monotonic(), count(), cpu_s(process.pid), wait_s(process.pid),
                    self.packets('near', 'tx'))

    def close(self):
        for process in reversed(self.processes):
            kill(process)
        self.processes = []
        for net in self.nets.values():
            os.close(net)
        self.nets = {}


def check_alive(process):
    """Raises Failed with its last words if a contestant has ended."""
    if process.poll() is not None:
        process.errors.seek(0)
        words = process.errors.read().decode('utf-8', 'replace').strip().split('\n')[-1]
        raise Failed('ended by itself (%d): %s' % (process.returncode, words[:200] or 'no words'))


# ==== 4 Load ==========================================================================

def own(function, *args, python=None) -> 'list[str]':
    """A function of this section and its arguments -> argv that runs it in a process."""
    code = 'import sys; sys.path.insert(0, %r); import bench; bench.%s(*sys.argv[1:])' % (
        HERE, function.__name__)
    return [python or sys.executable, '-c', code] + [str(arg) for arg in args]


def accept_all(port, backlog):
    """Accept on every address, and close at once."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(('0.0.0.0', int(port)))
    listener.listen(int(backlog))
    while True:
        with contextlib.suppress(OSError):
            listener.accept()[0].close()


def hear_none(port, backlog):
    """Listen on every address; whoever connects waits in the backlog, and hears nothing."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(('0.0.0.0', int(port)))
    listener.listen(int(backlog))
    signal.pause()


def add_up(data: bytes) -> int:
    """Internet checksum of data, of even size (RFC 1071)."""
    return 0xffff - (sum(struct.unpack('!%dH' % (len(data) // 2), data)) % 0xffff or 0xffff)


QUERY = b'\0\1\1\0\0\1\0\0\0\0\0\0\7example\3org\0\0\1\0\1'


OPTIONS = b'\2\4\5\xb4\4\2\10\12\0\0\0\1\0\0\0\0\1\3\3\7'
SNMP = '302602010104067075626c6963a019020101020100020100300e300c06082b060102010101000500'
PROBES = [                      # port, datagram
    (53, QUERY), (123, b'\xe3\0\4\xfa\0\1\0\0\0\1'.ljust(48, b'\0')), (161, bytes.fromhex(SNMP)),
    (1900, b'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n\r\n')]
MIX = ('syn',) * 7 + ('probe',) * 2 + ('other',)
REQUESTS = {                    # port, octets of an id in front, datagram
    'dns': (53, 2, QUERY), 'names': (53, 2, QUERY),
    'ntp': (123, 0, PROBES[1][1]), 'snmp': (161, 0, PROBES[2][1]),
    'ssdp': (1900, 0, b'M-SEARCH * HTTP/1.1\r\nHOST:239.255.255.250:1900\r\n'
                      b'MAN:"ssdp:discover"\r\nMX:1\r\nST:ssdp:all\r\n\r\n'),
    'rpc': (111, 4, struct.pack('!10I', 0, 0, 2, 100000, 2, 4, 0, 0, 0, 0))}


def make_request(kind, number) -> 'tuple[int, bytes]':
    """A request over UDP with an id of its own, and of `names` with a name -> (port, datagram)."""
    port, size, data = REQUESTS[kind]
    data = (number * 40503 % (1 << 8 * size)).to_bytes(size, 'big') + data[size:]
    return port, data.replace(b'example', b'%07d' % number) if kind == 'names' else data


def make_body(kind, number) -> 'tuple[int, int, bytes]':
    """Layer 4 of a frame of the flood -> (protocol, where its checksum goes, octets)."""
    port, options, probe = 1024 + number % 60000, b'', PROBES[0]
    if kind == 'mixed':
        kind, turn = MIX[number % len(MIX)], number // len(MIX)
        options, probe = OPTIONS[:(0, 4, 20)[turn % 3]], PROBES[turn % len(PROBES)]
        if kind == 'other' and turn % 2:
            return 1, 2, struct.pack('!HHI', 0x0800, 0, number) + bytes(56)
    if kind == 'other':
        return 6, 16, struct.pack('!HHIIHHHH', port, 80, number, 0, 0x5004, 1024, 0, 0)
    if kind == 'syn':
        word = 20 + len(options) << 10 | 2
        return 6, 16, struct.pack('!HHIIHHHH', port, 80, number, 0, word, 1024, 0, 0) + options
    to, data = make_request(kind, number) if kind in REQUESTS else probe
    return 17, 6, struct.pack('!HHHH', port, to, 8 + len(data), 0) + data


def make_frame(kind, src, dst, number) -> bytes:
    """A frame of the flood: kind syn, mixed or of REQUESTS, from address and port by number."""
    src, dst = src.to_bytes(4, 'big'), dst.to_bytes(4, 'big')
    protocol, at, body = make_body(kind, number)
    pad = body + b'\0' * (len(body) & 1)
    pseudo = src + dst + struct.pack('!HH', protocol, len(body)) if protocol != 1 else b''
    total = add_up(pseudo + pad)
    body = body[:at] + total.to_bytes(2, 'big') + body[at + 2:]
    head = struct.pack('!BBHHHBBH', 0x45, 0, 20 + len(body), 0, 0x4000, 64, protocol, 0)
    head = head[:10] + add_up(head + src + dst).to_bytes(2, 'big') + src + dst
    frame = bytes.fromhex('020000000002 020000000099 0800'.replace(' ', '')) + head + body
    is_padded = kind == 'mixed' and number // len(MIX) & 1
    return frame.ljust(60, b'\0') if is_padded else frame


def send_flood(iface, kind, base, bits):
    """What the C flood does, where there is no compiler; from 16,384 addresses."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.bind((iface, 0))
    first, many = cscan.ip_number(base), 1 << 32 - int(bits)
    frames = [make_frame(kind, (11 << 24) + number, first + number * 40503 % many, number)
              for number in range(16384)]
    send = sock.send
    for frame in itertools.cycle(frames):
        with contextlib.suppress(BlockingIOError):
            send(frame)


def exchange_all(base, bits, parallel, most):
    """What the C http client does, where there is no compiler: one exchange after the other."""
    first, many, done, failed, due = cscan.ip_number(base), 1 << 32 - int(bits), 0, 0, 0
    while not int(most) or done < int(most):
        try:
            address = cscan.ip_text(first + (done + failed) * 40503 % many), 80
            with socket.create_connection(address, timeout=2) as sock:
                sock.sendall(b'GET / HTTP/1.1\r\nHost: bench\r\n\r\n')
                done += bool(sock.recv(8192))
        except OSError:
            failed += 1
        if time.monotonic() >= due:
            due = time.monotonic() + 0.1
            print('%.6f %d %d' % (time.monotonic(), done, failed), flush=True)
    print('%.6f %d %d' % (time.monotonic(), done, failed), flush=True)


def timed(call) -> float:
    """Seconds that a call takes; told on standard error, for take_time."""
    began = time.perf_counter()
    call()
    sys.stderr.write('\nseconds %.6f\n' % (time.perf_counter() - began))


def spread(count) -> 'list[str]':
    """So many addresses in no order, as text; always the same ones."""
    return [cscan.ip_text(0x01000000 + number * 0x9e3779b1 % 0xd0000000)
            for number in range(int(count))]


def write_text_lines(path, count):
    """Results as text lines, one write() each: the plainest way to keep them."""
    results = spread(count)

    def work():
        with open(path, 'w', 1 << 20) as file:
            for host in results:
                file.write('%s:%d\n' % (host, 80))
    timed(work)


def write_entries(path, count):
    """Results as entries of a CBA file."""
    results = spread(count)
    sink = cscan.CbaSink(path, None, None)
    out = cscan.Out(sink, 1)

    def work():
        for host in results:
            out.begin('')
            out.str('%s:%d' % (host, 80))
            out.finish()
        sink.flush()
    timed(work)


def pass_entries(path, count):
    """Results on standard input through cscan.py -x -o: threads, module, file."""
    with tempfile.TemporaryFile() as file:
        file.write(''.join('%s:80\n' % host for host in spread(count)).encode())
        file.seek(0)
        os.dup2(file.fileno(), 0)
        timed(lambda: cscan.main(['-x', '-q', '-mt', '1', '-pr', '1000', '-o', path]))


def read_text_lines(path):
    """Lines of a text file, each split."""
    def work():
        with open(path) as file:
            for line in file:
                line.partition(':')
    timed(work)


def read_entries(path):
    """Entries of a CBA file."""
    import cba_reader

    def work():
        with open(path, 'rb') as file:
            for entry in cba_reader.CBA(file).entries(''):
                entry.events
    timed(work)


def print_entries(path):
    """cba_reader.py -r, to nowhere."""
    import cba_reader
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    timed(lambda: cba_reader.main(['-r', path]))


def sort_lines(path, output):
    """Lines of a text file, sorted: no program that reads and orders them can do less."""
    def work():
        with open(path) as file, open(output, 'w') as sink:
            sink.writelines(sorted(file))
    timed(work)


def compile_ranges(path, output):
    """compile_targets.py on a file of ranges."""
    import compile_targets
    timed(lambda: compile_targets.main(['-i', path, output]))


FIRST_WORDS = {                 # what a conversation begins with
    'http': b'GET / HTTP/1.1\r\nHost: a\r\n\r\n', 'smtp': b'EHLO a.example\r\n',
    'tls': bytes.fromhex('16030100c8010000c40303') + bytes(32),
    'unknown text': b'7NoSuchWord x\r\n',
    'dns': bytes.fromhex('123401000001000000000000037777770000010001')}


def find_protocols(kind, count):
    """Which protocol is it?  So often, of the 200 that there are, or are made up."""
    import masscanned
    protocols = list(masscanned.PROTOCOLS.values())
    for number in range(len(protocols), 200):
        octets = (number * 2654435761 & 0xffffffff).to_bytes(4, 'big')
        protocols.append(protocols[0]._replace(
            name='made-up-%d' % number, over=masscanned.BOTH, sigs=(octets,), check=None,
            words=(b'VERB%d' % number,), shared=(), ports=(number,)))
    find, data = masscanned.Registry(protocols).find, FIRST_WORDS[kind]
    over, port = (masscanned.UDP, 53) if kind == 'dns' else (masscanned.TCP, 7070)
    peer = masscanned.Peer(over, bytes(4), bytes(4), 40000, port, 0.0, None)
    timed(lambda: [find(data, peer) for _ in range(int(count))])


SSH_CLIENT = b'SSH-2.0-bench'
SSH_OFFER = [[b'curve25519-sha256'], [b'ssh-ed25519'], *[[b'aes128-ctr']] * 2,
             *[[b'hmac-sha2-256']] * 2, *[[b'none']] * 2]


class SshVisit:
    """A client of masscanned's SSH in the same process, with X25519 and AES.

    stream      the masscanned.Stream
    spent       seconds of CPU that the stream took
    """

    def __init__(self, masscanned, host, number):
        self.masscanned = masscanned
        self.stream = masscanned.Stream(number.to_bytes(4, 'big'), bytes(4), 40000, 22,
                                        time.time(), host)
        self.spent = 0.0

    def ask(self, octets) -> bytes:
        began = time.process_time()
        out = self.stream.feed(octets)
        while self.stream.waits is not None:
            out += self.stream.resume()
        self.spent += time.process_time() - began
        return out

    def pack(self, number, payload, way=None) -> bytes:
        way = way or self.masscanned.SSH_PLAIN
        return self.masscanned.pack_ssh(way, number, payload, os.urandom)

    def log_in(self) -> float:
        """All of it, with one password -> spent."""
        m = self.masscanned
        line, _, packet = self.ask(SSH_CLIENT + b'\r\n').partition(b'\n')
        theirs, ours = packet[5:-packet[4]], m.pack_kexinit(SSH_OFFER, bytes(16))
        secret = m.clamp(os.urandom(32))
        point = m.sized(m.x25519_base(secret).to_bytes(32, 'little'), 4)
        out = self.ask(self.pack(0, ours) + self.pack(1, b'\x1e' + point))
        blob, at = m.read_sized(out, 6, 4)
        value, _ = m.read_sized(out, at, 4)
        shared = m.x25519(secret, int.from_bytes(value, 'little')).to_bytes(32, 'little')
        packed = m.pack_mpint(int.from_bytes(shared, 'big'))
        parts = SSH_CLIENT, line.rstrip(), ours, theirs, blob
        session = hashlib.sha256(b''.join([m.sized(each, 4) for each in parts]) + point
                                 + m.sized(value, 4) + packed).digest()
        way = self.stream.state.make_way('sha256', packed, session, 0)
        login = b''.join([m.sized(each, 4) for each in (b'root', b'ssh-connection', b'password')])
        self.ask(self.pack(2, b'\x15'))
        self.ask(self.pack(3, b'\5' + m.sized(b'ssh-userauth', 4), way))
        self.ask(self.pack(4, b'\x32' + login + b'\0' + m.sized(b'secret', 4), way))
        if self.stream.state.failures != 1:
            raise SystemExit('the login did not arrive')
        return self.spent


def ssh_host(masscanned, rsa=None):
    """A Host whose SSH may compute as it likes."""
    host = masscanned.Host()
    host.shared['ssh'] = masscanned.SshHost(os.urandom, 1e6, rsa)
    return host


def log_in_often(count):
    """SSH up to the password, so often: seconds of CPU of our side alone."""
    import masscanned
    host = ssh_host(masscanned)
    SshVisit(masscanned, host, 0).log_in()          # tables and keys are made
    spent = sum(SshVisit(masscanned, host, number << 8).log_in() for number in range(int(count)))
    sys.stderr.write('\nseconds %.6f\n' % spent)


def exchange_often(name, count):
    """The arithmetic of a key exchange, or of a host key's signature, so often."""
    import masscanned
    rsa = masscanned.RsaKey.make(os.urandom) if name.startswith('rsa') else None
    name, keys = name.encode(), ssh_host(masscanned, rsa).shared['ssh'].keys
    if name in masscanned.SSH_HOST_KEYS:
        call = functools.partial(keys.sign, name, bytes(32), os.urandom)
    else:
        exchange = masscanned.SSH_KEX[name][0]
        value = 9
        if hasattr(exchange, 'name'):
            curve = masscanned.find_curve(exchange.name)
            value = curve.times_base(curve.draw(os.urandom))
        call = functools.partial(exchange.agree, value, os.urandom)
    call()
    began = time.process_time()
    for _ in range(int(count)):
        call()
    sys.stderr.write('\nseconds %.6f\n' % (time.process_time() - began))


def flood_ssh(address, rate):
    """So many clients a second that ask for Diffie-Hellman with RSA, each over a connection."""
    import masscanned
    lists = [[b'diffie-hellman-group14-sha256'], [b'ssh-rsa'], *SSH_OFFER[2:]]
    octets = SSH_CLIENT + b'\r\n' + b''.join(
        masscanned.pack_ssh(masscanned.SSH_PLAIN, 0, payload, os.urandom) for payload in (
            masscanned.pack_kexinit(lists, bytes(16)), b'\x1e' + masscanned.sized(b'\3', 4)))
    waiting, began, done = collections.deque(), time.monotonic(), 0
    while True:
        with contextlib.suppress(OSError):
            sock = socket.socket()
            sock.settimeout(0.2)
            waiting.append(sock)
            sock.connect((address, 22))
            sock.sendall(octets)
        while len(waiting) > 500:
            waiting.popleft().close()
        done += 1
        time.sleep(max(0.0, began + done / float(rate) - time.monotonic()))


def shake_hands(address, port, count, parallel):
    """So many TLS handshakes with a request behind each, some at a time."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def shake():
        for _ in range(int(count) // int(parallel)):
            with socket.create_connection((address, int(port)), 10) as sock:
                with context.wrap_socket(sock) as inner:
                    inner.sendall(b'GET / HTTP/1.0\r\n\r\n')
                    while inner.recv(1 << 16):
                        pass
    threads = [threading.Thread(target=shake) for _ in range(int(parallel))]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


# ==== 5 Registry ======================================================================

MEASUREMENTS = collections.OrderedDict()        # name -> Measurement
Measurement = collections.namedtuple('Measurement', [
    'name', 'unit', 'about',    # about: first line of the docstring
    'net',                      # 'kernel': a far end that answers; 'bare': one that is empty; ''
    'rounds',                   # how often each contestant runs
    'rows'])                    # (bench, lab) -> Rows and Missings; notes go to bench.note


def measure(name, unit, net='', rounds=ROUNDS):
    """Register a function that yields the contestants of a measurement."""
    def register(rows):
        about = rows.__doc__.partition('\n')[0].rstrip('.')
        MEASUREMENTS[name] = Measurement(name, unit, about, net, rounds, rows)
        return rows
    return register


class Bench:
    """What all measurements use.

    python      the interpreter under test
    quick       shorter windows, smaller numbers
    folder      for files; goes away
    against     a folder with older tools, '' = none
    version     of the interpreter, as machine() has it
    yardstick   path of the C program, '' = no compiler
    """

    def __init__(self, python, quick, folder, version='', against=''):
        self.python, self.quick, self.folder = python, quick, folder
        self.against = against
        self.compile_s = 2 if 'PyPy' in version else 0      # until its compiler is through
        self.first, self.last = cores()[0], cores()[-1]
        self.notes, self.lab = collections.OrderedDict(), None
        self.yardstick = build_yardsticks(folder)

    def note(self, text, about=''):
        """A line below the table of the running measurement; about one thing the last counts."""
        self.notes[about or text] = text

    def size(self, full, quick) -> int:
        """How many of something."""
        return quick if self.quick else full

    def path(self, name) -> str:
        return os.path.join(self.folder, name)

    def tool(self, name, *args, folder=HERE) -> 'list[str]':
        """argv of one of our tools, or of an older one, with the interpreter under test."""
        return [self.python, os.path.join(folder, name)] + list(args)

    def both(self, name, base, make, option='') -> list:
        """Rows of one of our tools and, with --against, of the older one, then its base.

        make    make(folder) -> what takes a figure of the tool there
        option  of masscanned.py, without which the older one cannot take part
        """
        if not self.against or (option and repr(option) not in read_text(
                os.path.join(self.against, 'masscanned.py'))):
            return [Figure(name, make(HERE), base)]
        before = name + ', before'
        return [Figure(before, make(self.against), ''), Figure(name, make(HERE), before)]

    def run(self, measurement) -> dict:
        """All rounds of a measurement -> what bench.json keeps of it."""
        self.notes.clear()
        window_s = 0.4 if self.quick else 1.5
        try:
            if measurement.net:
                warm_s = window_s / 2 + self.compile_s
                self.lab = Lab(measurement.net == 'kernel', warm_s, window_s)
            found = list(measurement.rows(self, self.lab))
            rows = [row for row in found if isinstance(row, Figure)]
            figures = {row.name: [] for row in rows}
            for number in range(measurement.rounds):
                for row in rows:
                    status('%s, round %d of %d: %s' % (measurement.name, number + 1,
                                                       measurement.rounds, row.name))
                    figures[row.name].append(self.take(row))
            if self.lab and self.lab.shared:
                self.note('%d of %d figures: others had more than %d %% of a core meanwhile'
                          % (self.lab.shared, self.lab.looks, 100 * SHARED))
        finally:
            status('')
            self.close()
        return {'name': measurement.name, 'about': measurement.about, 'unit': measurement.unit,
                'rows': summarize(rows, figures), 'notes': list(self.notes.values()),
                'missing': [list(row) for row in found if isinstance(row, Missing)]}

    def take(self, row) -> 'float | None':
        """One figure; None and a note if it failed."""
        try:
            return row.take()
        except (Failed, subprocess.TimeoutExpired) as error:
            self.note('%s: %s' % (row.name, error))
            return None

    def close(self):
        if self.lab:
            self.lab.close()
        self.lab = None


def status(text):
    """What runs now, on a terminal only; '' = nothing."""
    if sys.stderr.isatty():
        sys.stderr.write('\r\x1b[K' + text[:79])
        sys.stderr.flush()


def build_yardsticks(folder) -> str:
    """Compile the C program -> its path, '' where there is no compiler."""
    compiler = shutil.which('cc') or shutil.which('gcc')
    source, path = os.path.join(folder, 'yardstick.c'), os.path.join(folder, 'yardstick')
    with open(source, 'w') as file:
        file.write(YARDSTICKS)
    if not compiler or subprocess.call([compiler, '-O2', '-o', path, source],
                                       stderr=subprocess.DEVNULL):
        return ''
    return path


def have(name, command) -> 'Missing | None':
    """None if a peer's program is there."""
    return None if shutil.which(command, path=CLEAN['PATH']) else Missing(
        name, '%s is not installed' % command)


# ==== 6 Scanner =======================================================================

SILENT, ANSWERING = ('10.128.0.0', 9), ('10.64.0.0', 10)    # of Lab.KERNEL
C_LOOP = 'C connect() loop'
PENDING = 1000, 2000, 5000, 10000, 15000
TURN_S, TURNS = 0.05, 50        # seconds, how many each has in a round
PENDING_RATE = 400000           # the timeout that goes with them allows so many connects/s

Net = collections.namedtuple('Net', [
    'base', 'bits', 'port', 'ports',    # targets: a block, and so many ports from one on
    'answers',                          # whether there are answers
    'timeout_ms'])                      # for cscan, so that it does not limit the rate

SILENT_NET = Net(SILENT[0], SILENT[1], 80, 1, 0, 2)
REFUSING_NET = Net(ANSWERING[0], ANSWERING[1], 81, 1, 1, 50)
OPEN_NETS = [('1 of 100 open', Net(ANSWERING[0], ANSWERING[1], 1000, 100, 1, 50)),
             ('1 of 10 open', Net(ANSWERING[0], ANSWERING[1], 1000, 10, 1, 50)),
             ('all open', Net(ANSWERING[0], ANSWERING[1], 1000, 1, 1, 50))]
BACKLOG = 16384                 # connections that wait for accept()


def ports_text(net) -> str:
    """A net's ports -> '80' or '1000-1099'."""
    return '%d-%d' % (net.port, net.port + net.ports - 1) if net.ports > 1 else str(net.port)


def loop_command(bench, net, pending) -> 'list[str]':
    """argv of the C loop of connect()."""
    return [bench.yardstick, 'connect', net.base, net.bits, net.port, net.ports, pending,
            net.answers]


def cscan_command(bench, net, pending, timeout_ms, *more, folder=HERE) -> 'list[str]':
    """argv of a cscan that never ends."""
    return bench.tool('cscan.py', '-f', '%s/%d' % (net.base, net.bits), '-p', ports_text(net),
                      '-m', pending, '-t', timeout_ms, '-ct', 0, '-q', *more, folder=folder)


def nmap_command(net) -> 'list[str]':
    """argv of an nmap that is told not to wait: of many settings tried, the quickest."""
    return ['nmap', '-sT', '-n', '-Pn', '-T5', '--max-retries', 0, '--min-rate', 1000000,
            '--min-parallelism', 300, '--min-hostgroup', 4096, '--initial-rtt-timeout', '5ms',
            '--max-rtt-timeout', '5ms', '-p', ports_text(net), '%s/%d' % (net.base, net.bits)]


def masscan_command(net, rate=100000000) -> 'list[str]':
    """argv of masscan on the near interface."""
    return ['masscan', '%s/%d' % (net.base, net.bits), '-p', ports_text(net), '--rate', rate,
            '--adapter', 'v0', '--adapter-ip', '10.77.0.1', '--adapter-mac', NEAR_MAC,
            '--router-mac', FAR_MAC, '--wait', 0]


def zmap_command(net, rate=0) -> 'list[str]':
    """argv of zmap on the near interface; it scans one port."""
    return ['zmap', '-p', net.port, '-i', 'v0', '-G', FAR_MAC, '-S', '10.77.0.1', '-r', rate,
            '-b', '/dev/null', '-T', 1, '-q', '-o', '/dev/null', '%s/%d' % (net.base, net.bits)]


def rate_of(bench, command, count, pinned, settle_s=0.0):
    """A command -> a function that runs it on the near side: how many of count() a second."""
    lab = bench.lab

    def take():
        with lab.running('near', command, pinned) as process:
            look = lab.watch(process, count, settle_s)
            return look.count / look.time_s
    return take


def scan_rows(bench, lab, net):
    """The contestants in a net."""
    def near_frames():
        return lab.packets('near', 'tx')
    first = bench.first
    if bench.yardstick:
        yield Figure(C_LOOP, rate_of(bench, loop_command(bench, net, 1000), lab.connects,
                     first), '')
    else:
        yield Missing(C_LOOP, 'no C compiler (cc)')
    base = C_LOOP if bench.yardstick else 'cscan.py'
    yield Figure('cscan.py', rate_of(bench, cscan_command(bench, net, 1000, net.timeout_ms),
                 lab.connects, first), C_LOOP if bench.yardstick else '')
    workers = len(cores())
    name = 'cscan.py -w %d' % workers
    if has_workers(bench):      # each with as many pending as one: else these limit the rate
        command = cscan_command(bench, net, 1000 * workers, net.timeout_ms, '-w', workers)
        yield Figure(name, rate_of(bench, command, lab.connects, None), 'cscan.py')
    else:
        yield Missing(name, 'this cscan.py has no -w')
    yield have('nmap -sT', 'nmap') or Figure(
        'nmap -sT', rate_of(bench, nmap_command(net), lab.connects, first), base)
    yield have('masscan', 'masscan') or Figure(
        'masscan', rate_of(bench, masscan_command(net), near_frames, first), base)
    if net.ports == 1:
        yield have('zmap', 'zmap') or Figure(
            'zmap', rate_of(bench, zmap_command(net), near_frames, first), base)
    else:
        yield Missing('zmap', 'it scans one port a run')


def has_workers(bench) -> bool:
    """Whether this cscan.py has -w."""
    done = subprocess.run(bench.tool('cscan.py', '--help'), stdout=subprocess.PIPE)
    return re.search(rb'^ +-w N', done.stdout, re.M) is not None


@measure('scan-silent', 'connects/s', 'kernel')
def scan_silent(bench, lab):
    """Scan of a net that never answers, on one core."""
    return scan_rows(bench, lab, SILENT_NET)


@measure('scan-refused', 'connects/s', 'kernel')
def scan_refused(bench, lab):
    """Scan of a net that refuses every connect, on one core."""
    return scan_rows(bench, lab, REFUSING_NET)


Contestant = collections.namedtuple('Contestant', [
    'process', 'count',     # count: () -> what it has done so far
    'load'])                # processes that keep it busy, and stop when it does


class Turns:
    """Contestants on one core in turns of 50 ms, each in a net of its own: what they do in them.

    Windows of a second, one contestant after the other, scatter by half where others use the
    machine: ratios of these repeat within some hundredths.  A figure is for a second of CPU time
    of the process: of a turn's time others have a share, and who is overloaded does not sleep.
    What a full queue holds when a turn begins is no head start, as its answers take time, too.

    starts  for each: (bench, stack, lab) -> Contestant, warm, halted; stack ends it
    kernel  whether its far end answers, as for Lab
    """

    def __init__(self, bench, starts, kernel):
        self.bench, self.starts, self.kernel, self.figures = bench, starts, kernel, []

    def taker(self, number):
        """What takes the figure of a contestant; the first takes those of all."""
        def take():
            if not number:
                self.figures = []
                self.figures = self.run()
            if not self.figures:
                raise Failed('the run before failed')
            return self.figures[number]
        return take

    def run(self) -> 'list[float]':
        with contextlib.ExitStack() as stack:
            runners = [self.start(stack, start) for start in self.starts]
            spent = [[0, 0.0] for _ in runners]
            for turn in range(self.bench.size(TURNS, TURNS // 4)):
                for number in range(len(runners))[::-1 if turn % 2 else 1]:
                    for index, more in enumerate(self.let(*runners[number])):
                        spent[number][index] += more
        return [count / cpu for count, cpu in spent]

    def start(self, stack, start):
        """A contestant in a net of its own -> Contestant."""
        lab = Lab(self.kernel, 0.2 + self.bench.compile_s, 0)
        stack.callback(lab.close)
        return start(self.bench, stack, lab)

    @staticmethod
    def let(process, count, load) -> 'tuple[int, float]':
        """One turn -> what was counted, CPU seconds."""
        before, cpu = count(), cpu_s(process.pid)
        for each in load + (process,):
            os.kill(each.pid, signal.SIGCONT)
        time.sleep(TURN_S)
        for each in (process,) + load:
            halt(each)
            check_alive(each)
        return count() - before, cpu_s(process.pid) - cpu


def in_turns(bench, rows, kernel):
    """Rows that take what starts a contestant for Turns -> Rows that take its figure."""
    turns = Turns(bench, [row.take for row in rows], kernel)
    for number, row in enumerate(rows):
        yield row._replace(take=turns.taker(number))


def scanning(command, net=SILENT_NET):
    """A command -> what starts it for Turns; in a net with open ports somebody listens."""
    def start(bench, stack, lab):
        if net in dict(OPEN_NETS).values():
            stack.enter_context(listening(bench, lab, net.port))
        process = stack.enter_context(lab.running('near', command, bench.first))
        lab.warm(process, lab.connects)
        halt(process)
        return Contestant(process, lab.connects, ())
    return start


@measure('scan-turns', 'connects a second of CPU time')
def scan_turns(bench, _):
    """Scanners on one core in turns of 50 ms, so that what disturbs one disturbs all."""
    if not bench.yardstick:
        yield Missing(C_LOOP, 'no C compiler (cc)')
    for about, net, pending in (('silent', SILENT_NET, 1000), ('refused', REFUSING_NET, 1000),
                                ('silent, 15,000', SILENT_NET, 15000)):
        timeout_ms = net.timeout_ms * pending / 1000
        def command(*more):
            return lambda folder: scanning(cscan_command(bench, net, pending, timeout_ms, *more,
                                                         folder=folder))

        def metered(folder):                # both at once: each has its file
            name = 'metrics.%s' % ('before' if folder == bench.against else 'now')
            return command('-mf', bench.path(name))(folder)
        ours, loop = 'cscan.py, ' + about, '%s, %s' % (C_LOOP, about)
        rows = bench.both(ours, loop if bench.yardstick else '', command())
        rows += bench.both('cscan.py -mf, ' + about, ours, metered)
        show = command('--show', 'refused,silent', '-o', os.devnull)    # the older may lack it
        rows.append(Figure('cscan.py --show, ' + about, show(HERE), ours))
        if bench.yardstick:
            rows.insert(0, Figure(loop, scanning(loop_command(bench, net, pending)), ''))
        yield from in_turns(bench, rows, True)


@contextlib.contextmanager
def accepting(lab, side, command, core, what):
    """A server on a side, with a backlog of BACKLOG; raises Failed if it does not listen."""
    limit = 'echo %d > /proc/sys/net/core/somaxconn; exec "$@"' % BACKLOG
    with lab.running(side, ['/bin/sh', '-c', limit, 'sh'] + command, core):
        end = time.monotonic() + START_S
        while ' 0A ' not in read_text('/proc/%d/net/tcp' % lab.anchors[side].pid):
            if time.monotonic() > end:
                raise Failed(what + ' does not listen')
            time.sleep(0.01)
        yield


@contextlib.contextmanager
def listening(bench, lab, port):
    """A listener on every address of the far side; a note if it did not keep up."""
    command = [bench.yardstick, 'listen', port, BACKLOG] if bench.yardstick else own(
        accept_all, port, BACKLOG)
    with accepting(lab, 'far', command, bench.last, 'the far end'):
        yield
        names, numbers = re.findall('^TcpExt: (.*)', read_text(
            '/proc/%d/net/netstat' % lab.anchors['far'].pid), re.M)
        lost = int(dict(zip(names.split(), numbers.split()))['ListenOverflows'])
        if lost:
            bench.note('the listener did not keep up: %d connections lost' % lost, 'listener')


@measure('scan-open', 'connects a second of CPU time', rounds=5)
def scan_open(bench, _):
    """Scanners where ports are open and the others refuse, on one core in turns of 50 ms."""
    if not bench.yardstick:
        yield Missing(C_LOOP, 'no C compiler (cc)')
    for about, net in OPEN_NETS:
        def ours(folder):
            return scanning(cscan_command(bench, net, 1000, net.timeout_ms, folder=folder), net)
        loop = '%s, %s' % (C_LOOP, about)
        rows = bench.both('cscan.py, ' + about, '', ours)
        if bench.yardstick:
            rows = [Figure(loop, scanning(loop_command(bench, net, 1000), net), '')] + [
                row._replace(base=loop) for row in rows]
        yield from in_turns(bench, rows, True)


NGINX = """
worker_processes 1; daemon off; pid PATH/pid; error_log PATH/error;
events { worker_connections 20000; }
http {
    access_log off; client_body_temp_path PATH; proxy_temp_path PATH; fastcgi_temp_path PATH;
    uwsgi_temp_path PATH; scgi_temp_path PATH;
SERVERS
}
"""
NGINX_SERVER = 'server { listen 0.0.0.0:%s backlog=16384; location / { return 200 "hello"; } }'
NGINX_TLS = ('server { listen 0.0.0.0:%d ssl backlog=16384; '
             'ssl_certificate %s; ssl_certificate_key %s; }')
BANNER_NET = '127.128.0.0', 18          # addresses of nginx on the near side's loopback


@contextlib.contextmanager
def serving_http(bench, servers=NGINX_SERVER % 80):
    """nginx on all loopback addresses of the near side; servers: of its configuration."""
    path = bench.path('nginx')
    os.makedirs(path, exist_ok=True)
    with open(os.path.join(path, 'conf'), 'w') as file:
        file.write(NGINX.replace('PATH', path).replace('SERVERS', servers))
    command = ['nginx', '-p', path, '-c', os.path.join(path, 'conf')]
    with accepting(bench.lab, 'near', command, bench.last, 'nginx'):
        yield


def to_the_end(bench, command, by, hosts, *servers):
    """A command that ends by itself -> a function: hosts a second.

    by      of 'cpu' time, 'user' time, or a 'clock'
    """
    def take():
        running = bench.lab.running('near', command, bench.first, stdout=subprocess.DEVNULL)
        with serving_http(bench, *servers), running as process:
            begun = time.monotonic()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = status
            if status:
                raise Failed('status %d' % status)
            seconds = {'clock': time.monotonic() - begun, 'user': usage.ru_utime,
                       'cpu': usage.ru_utime + usage.ru_stime}
            return hosts / seconds[by]
    return take


def banner_command(bench, bits, *more, folder=HERE, port=80) -> 'list[str]':
    """argv of a scan of banners; older ones need threads, whose number harms no other."""
    return bench.tool('cscan.py', '-q', '-f', '%s/%d' % (BANNER_NET[0], bits), '-p', port,
                      '--once', '-ct', 0, '-t', 1000, '-m', 1000, '-mt', 100, '-mod',
                      folder=folder)


@measure('scan-banner', 'hosts a second of CPU time', 'bare')
def scan_banner(bench, _):
    """HTTP banners of loopback hosts, with the scan; nginx on another core, if there is one."""
    bits = bench.size(BANNER_NET[1], 19)        # so many that the start of Python does not count
    hosts = 1 << 32 - bits
    missing, loop = have('nginx', 'nginx'), 'C epoll client'
    if missing:
        yield missing
        return

    def ours(folder):
        command = banner_command(bench, bits, '-mcfg', 'banner.wait=5', folder=folder)
        return to_the_end(bench, command, 'cpu', hosts)
    rows = bench.both('cscan.py', '', ours)
    if bench.yardstick:
        client = [bench.yardstick, 'banner', BANNER_NET[0], bits, 200, hosts]
        yield Figure(loop, to_the_end(bench, client, 'cpu', hosts), '')
        rows = [row._replace(base=row.base or loop) for row in rows]
    yield from rows


@measure('scan-banner-wait', 'hosts/s', 'bare')
def scan_banner_wait(bench, _):
    """The same by the clock, with the time that servers have to speak first by default."""
    bits = bench.size(22, 24)           # an older one takes a second for 100 of them
    missing = have('nginx', 'nginx')
    if missing:
        yield missing
        return
    yield from bench.both('cscan.py', '', lambda folder: to_the_end(
        bench, banner_command(bench, bits, folder=folder), 'clock', 1 << 32 - bits))


KEYS = (('RSA-2048', ('rsa:2048',)), ('P-256', ('ec', '-pkeyopt', 'ec_paramgen_curve:P-256')))


def certify(bench, name, words) -> str:
    """A key and its certificate, made by openssl -> path of the file with both."""
    path = bench.path('%s.pem' % name)
    if not os.path.exists(path):
        made = subprocess.run(
            ['openssl', 'req', '-x509', '-newkey', *words, '-nodes', '-days', '9', '-subj',
             '/CN=bench.example', '-keyout', path + '.key', '-out', path],
            env=CLEAN, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if made.returncode:
            raise Failed('openssl req: ' + made.stdout.decode().strip().split('\n')[-1])
        with open(path, 'a') as file:
            file.write(read_text(path + '.key'))
    return path


@measure('scan-tls', 'connections a second of user CPU time', 'bare')
def scan_tls(bench, _):
    """Certificates of loopback hosts, with the scan, against openssl s_time -new."""
    missing = have('nginx', 'nginx') or have('openssl s_time', 'openssl')
    if missing:
        yield missing
        return
    bits = bench.size(20, 21)
    for name, words in KEYS:
        path, theirs = certify(bench, name, words), 'openssl s_time -new, ' + name
        servers = NGINX_TLS % (443, path, path)
        yield Figure(theirs, time_of_s_time(bench, bench.size(4, 1), servers), '')
        for row in bench.both('cscan.py, ' + name, theirs, lambda folder: to_the_end(
                bench, banner_command(bench, bits, '-mcfg', 'banner.wait=5,banner.probe=tls',
                                      folder=folder, port=443),
                'user', 1 << 32 - bits, servers)):
            yield row._replace(base=theirs)


def time_of_s_time(bench, seconds, servers):
    """-> a function: connections/user sec that openssl s_time reports."""
    command = ['openssl', 's_time', '-new', '-connect', '127.128.0.1:443', '-time', seconds]

    def take():
        running = bench.lab.running('near', command, bench.first, stdout=subprocess.PIPE)
        with serving_http(bench, servers), running as process:
            text = process.stdout.read().decode()
        found = re.search(r'([\d.]+) connections/user sec', text)
        if not found:
            raise Failed('it reports no connections')
        return float(found.group(1))
    return take


@measure('scan-banner-memory', 'MB for 10,000 conversations', 'bare', rounds=1)
def scan_banner_memory(bench, lab):
    """Memory of hosts that say nothing: what 10,000, or as many as fit, take more than 100."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = min(10000, hard // 4 - 100) if hard > 0 else 10000

    def peak(hosts):
        last = cscan.ip_text(cscan.ip_number(BANNER_NET[0]) + hosts - 1)
        command = bench.tool(
            'cscan.py', '-q', '-f', '%s-%s' % (BANNER_NET[0], last), '-p', 80, '--once',
            '-ct', 0, '-t', 1000, '-m', 1000, '--talks', most, '-mod', 'banner', '-mcfg',
            'banner.probe=none,banner.wait=600000,banner.read_timeout=600000')
        silent = own(hear_none, 80, BACKLOG)
        with accepting(lab, 'near', silent, bench.last, 'the silent server'), \
                lab.running('near', command, bench.first) as process:
            end = time.monotonic() + 60
            while len(os.listdir('/proc/%d/fd' % process.pid)) < hosts:
                if time.monotonic() > end or process.poll() is not None:
                    raise Failed('%d hosts are not under way' % hosts)
                time.sleep(0.1)
            return memory_kb(process.pid, 'VmHWM') / 1024

    def take():
        if most < 10000:
            bench.note('the limit of descriptors allows {:,} at once'.format(most))
        return (peak(most) - peak(100)) * 10000 / (most - 100)
    yield Figure('cscan.py', take, '')


@measure('scan-open-cores', 'connects/s', 'kernel')
def scan_open_cores(bench, lab):
    """Scan where all ports are open, the listener on the same cores."""
    net = OPEN_NETS[-1][1]
    loops = ['/bin/sh', '-c', '"$@" & exec "$@"', 'sh'] + loop_command(bench, net, 1000)
    command = cscan_command(bench, net, 1000, net.timeout_ms)

    def heard(take):
        with listening(bench, lab, net.port):
            return take()
    rows = list(scan_rows(bench, lab, net)) + [
        Figure('cscan.py, not pinned', rate_of(bench, command, lab.connects, None), 'cscan.py')]
    if bench.yardstick:
        rows.append(Figure('2 C loops', rate_of(bench, loops, lab.connects, None), C_LOOP))
    for row in rows:
        yield row if isinstance(row, Missing) else row._replace(
            take=functools.partial(heard, row.take))


@measure('scan-cpu', 'microseconds of CPU a probe', 'kernel')
def scan_cpu(bench, lab):
    """CPU of scanners in the silent net at 10,000 probes a second, the kernel's part included."""
    def cost_of(command, count):
        def take():
            with lab.running('near', command, bench.first) as process:
                look = lab.watch(process, count)
                return 1e6 * look.cpu_s / look.count
        return take

    def near_frames():
        return lab.packets('near', 'tx')
    net = SILENT_NET
    base = ''
    if bench.yardstick:
        base = C_LOOP + ', flat out'
        yield Figure(base, cost_of(loop_command(bench, net, 1000), lab.connects), '')
    command = bench.tool('cscan.py', '-f', '%s/%d' % SILENT, '-p', 80, '-r', 10000, '-t', 800,
                         '-q')
    yield Figure('cscan.py', cost_of(command, lab.connects), base)
    flat_out = cscan_command(bench, net, 1000, net.timeout_ms)
    yield Figure('cscan.py, flat out', cost_of(flat_out, lab.connects), base)
    yield have('masscan', 'masscan') or Figure(
        'masscan', cost_of(masscan_command(net, 10000), near_frames), base)
    yield have('zmap', 'zmap') or Figure('zmap', cost_of(zmap_command(net, 10000), near_frames),
                                         base)


@measure('scan-memory', 'kB for 1,000 pending connects', 'kernel', rounds=1)
def scan_memory(bench, lab):
    """Memory of pending connects: what 15,000 take more than 1,000, divided by 14."""
    command = cscan_command
    found = {}

    def peak(pending):
        with lab.running('near', command(bench, SILENT_NET, pending, 1000)) as process:
            slab = kernel_kb()
            lab.watch(process, lab.connects, 2)
            return memory_kb(process.pid, 'VmHWM'), kernel_kb() - slab

    def take():
        small, large = peak(1000), peak(15000)
        bench.note('cscan.py with 1,000 pending has {:,} kB in all'.format(small[0]))
        found['kernel'] = (large[1] - small[1]) / 14
        return (large[0] - small[0]) / 14

    def slabs():
        if not found:
            raise Failed('the run before failed')
        return found['kernel']
    yield Figure('cscan.py, the process', take, '')
    yield Figure("the kernel's slabs, all of the machine", slabs, '')


@measure('scan-pending', 'connects/s', 'kernel')
def scan_pending(bench, lab):
    """Rate in the silent net with more and more sockets pending."""
    bench.note('the timeout lets cscan.py send {:,}/s at most: sockets / timeout'.format(
        PENDING_RATE))
    for pending in PENDING if not bench.quick else PENDING[::4]:
        for name, command in pending_commands(bench, pending):
            base = '%s, %d' % (name, PENDING[0]) if pending > PENDING[0] else ''
            if name != C_LOOP and bench.yardstick:      # whose decline is the kernel's
                base = '%s, %d' % (C_LOOP, pending)
            yield Figure('%s, %d' % (name, pending), rate_of(
                bench, command, lab.connects, bench.first, pending / 20000), base)


def pending_commands(bench, pending):
    """(name, argv) of those who keep so many sockets pending."""
    if bench.yardstick:
        yield C_LOOP, loop_command(bench, SILENT_NET, pending)
    yield 'cscan.py', cscan_command(bench, SILENT_NET, pending, 1000 * pending / PENDING_RATE)


@measure('scan-draw', 'targets/s')
def scan_draw(bench, _):
    """Target lists, nothing sent: what the drawing and its output take, on one core."""
    block = '10.0.0.0/8'
    yield Figure('cscan.py -l', lines_of(bench, bench.tool(
        'cscan.py', '-l', '-f', block, '-p', '80')), '')
    yield Figure('cscan.py -l, 10 ports', lines_of(bench, bench.tool(
        'cscan.py', '-l', '-f', block, '-p', '1-10')), 'cscan.py -l')
    yield Figure('cscan.py -l -f public', lines_of(bench, bench.tool(
        'cscan.py', '-l', '-f', 'public', '-p', '80')), 'cscan.py -l')
    yield Figure('cscan.py -l --once', lines_of(bench, bench.tool(
        'cscan.py', '-l', '--once', '-f', block, '-p', '80')), 'cscan.py -l')
    yield have('nmap -sL', 'nmap') or Figure(
        'nmap -sL', lines_of(bench, ['nmap', '-sL', '-n', block]), 'cscan.py -l')
    yield have('masscan -sL', 'masscan') or Figure('masscan -sL', lines_of(
        bench, ['masscan', '-sL', block]), 'cscan.py -l')


def lines_of(bench, command):
    """A command -> a function that runs it: lines a second that it prints."""
    window_s = 0.4 if bench.quick else 1.5

    def take():
        process = spawn(command, None, bench.first, stdout=subprocess.PIPE,
                        stderr=subprocess.DEVNULL)
        try:
            return count_lines(process.stdout.fileno(), window_s)
        finally:
            kill(process)
    return take


def count_lines(pipe, window_s) -> float:
    """Lines a second, of a window that begins 0.2 s after the first."""
    lines, begin, end = 0, None, None
    while True:
        if not select.select((pipe,), (), (), START_S)[0]:
            raise Failed('nothing came in %d s' % START_S)
        data = os.read(pipe, 1 << 20)
        now = time.monotonic()
        if not data:
            raise Failed('it ended before its time')
        if begin is None:
            begin = now + 0.2
        elif now < begin:
            continue
        elif end is None:
            begin, end = now, now + window_s    # what this read brought was there before
        else:
            lines += data.count(b'\n')
            if now >= end:
                return lines / (now - begin)


# ==== 7 Responder =====================================================================

OWN, OWN_BLOCK = '10.78.0.2', ('10.78.0.0', 16)
C_ANSWER = 'C recvfrom()/sendto() loop'
PARALLEL = 64                   # exchanges at a time
HANDS = 16                      # handshakes of TLS at a time
SSH_PARTS = ('curve25519-sha256', 'ecdh-sha2-nistp256', 'ecdh-sha2-nistp384', 'ecdh-sha2-nistp521',
             'diffie-hellman-group14-sha256', 'ssh-ed25519', 'ecdsa-sha2-nistp256', 'rsa-sha2-256')


def responder_command(bench, *more, own=OWN, folder=HERE) -> 'list[str]':
    """argv of a masscanned on the far interface; as root it ends when we end."""
    return bench.tool('masscanned.py', '-i', 'v1', '--self-ip-list', own, '--user', 'root', *more,
                      folder=folder)


def flood_command(bench, kind, base=OWN, bits=32) -> 'list[str]':
    """argv of a flood of kind syn, mixed or of REQUESTS to a block."""
    if bench.yardstick:
        return [bench.yardstick, 'flood', 'v0', kind, base, bits]
    bench.note('no C compiler: the flood is a Python program, and perhaps too slow')
    return own(send_flood, 'v0', kind, base, bits)


def flooded(bench, command, kind='syn', base=OWN, bits=32, pinned=True, **options):
    """A responder -> a function that runs it under a flood: frames a second that it answers."""
    lab = bench.lab

    def count():
        return lab.packets('far', 'tx')

    def take():
        with lab.running('far', command, bench.last if pinned else None, **options) as responder:
            wait_ready(responder)
            flooding = flood_command(bench, kind, base, bits)
            with lab.running('near', flooding, bench.first) as flood:
                look = lab.watch(responder, count, load=flood)
            if look.count > 0.95 * look.sent:
                bench.note('the flood was too slow where a figure is the flood: {:,.0f}/s'.format(
                    look.sent / look.time_s), 'flood')
            return look.count / look.time_s
    return take


def wait_ready(responder):
    """Until a masscanned.py says that it answers; the others say nothing."""
    end = time.monotonic() + START_S
    while any(each.endswith('masscanned.py') for each in responder.args):
        check_alive(responder)
        if b'answering on' in os.pread(responder.errors.fileno(), 1 << 16, 0):
            return
        if time.monotonic() > end:
            raise Failed('it was not ready in %d s' % START_S)
        time.sleep(0.01)
    time.sleep(0.1)


def original_rows(bench, take):
    """The program that ours re-implements, where its path is known; take(argv) -> its figure."""
    path, base = os.environ.get('MASSCANNED_ORIGINAL'), C_ANSWER if bench.yardstick else ''
    if not path:
        yield Missing('original', 'its path is not in MASSCANNED_ORIGINAL')
        return
    command = [path, '-i', 'v1', '--mac-addr', FAR_MAC]
    yield Figure('original -q', take(command + ['-q']), base)
    yield Figure('original > /dev/null', take(command), base)


def flood_rows(bench, kind):
    """C loop and masscanned under a flood."""
    def masscanned(*more):
        return lambda folder: flooded(bench, command(folder, *more), kind)

    def command(folder, *more):
        return responder_command(bench, '--udp-budget', 'off', *more, folder=folder)

    def to_file(folder):
        def take():
            with open(bench.path('log'), 'wb') as file:
                return flooded(bench, command(folder), kind, stdout=file)()
        return take
    if bench.yardstick:
        yield Figure(C_ANSWER, flooded(bench, [bench.yardstick, 'answer', 'v1'], kind), '')
    else:
        yield Missing(C_ANSWER, 'no C compiler (cc)')
    yield from original_rows(bench, lambda command: flooded(bench, command, kind))
    quiet = 'masscanned.py -q'
    yield from bench.both(quiet, C_ANSWER if bench.yardstick else '', masscanned('-q'))
    yield from bench.both('masscanned.py > /dev/null', quiet, masscanned())
    yield from bench.both('masscanned.py > FILE', quiet, to_file)
    yield from bench.both('masscanned.py --format logfmt > /dev/null', quiet,
                          masscanned('--format', 'logfmt'))
    yield from bench.both('masscanned.py -q --events FILE', quiet,
                          masscanned('-q', '--events', bench.path('events')), '--events')
    yield from bench.both('masscanned.py -q --pcap FILE', quiet,
                          masscanned('-q', '--pcap', bench.path('pcap')), '--pcap')


@measure('answer-syn', 'answers/s', 'bare')
def syn_answered(bench, _):
    """SYNs answered under overload, on one core."""
    return flood_rows(bench, 'syn')


def answering(command, log=os.devnull, kind='syn'):
    """A responder and where its output goes -> what starts it under a flood for Turns."""
    def start(bench, stack, lab):
        def count():
            return lab.packets('far', 'tx')
        output = stack.enter_context(open(log, 'wb'))
        process = stack.enter_context(lab.running('far', command, bench.last, stdout=output))
        wait_ready(process)
        flooding = flood_command(bench, kind)
        flood = stack.enter_context(lab.running('near', flooding, bench.first))
        lab.warm(process, count)
        for each in process, flood:
            halt(each)
        stack.callback(check_flood, bench, lab)
        return Contestant(process, count, (flood,))
    return start


def check_flood(bench, lab):
    """A note if a responder was not kept busy."""
    if lab.packets('far', 'tx') > 0.95 * lab.packets('near', 'tx'):
        bench.note('the flood was too slow for one of them: it slept at times', 'flood')


@measure('answer-turns', 'answers a second of CPU time')
def answer_turns(bench, _):
    """SYNs answered under overload on one core, in turns of 50 ms."""
    return turn_rows(bench, 'syn')


@measure('answer-mixed', 'answers a second of CPU time')
def answer_mixed(bench, _):
    """SYNs of three shapes, UDP probes, pings and RSTs answered on one core, in turns of 50 ms."""
    return turn_rows(bench, 'mixed')


def turn_rows(bench, kind):
    """Responders under a flood, in turns of 50 ms."""
    def masscanned(*more, log=os.devnull):
        return lambda folder: answering(responder_command(bench, *more, folder=folder), log, kind)
    quiet = 'masscanned.py -q'
    has_yardstick = bench.yardstick and kind == 'syn'       # the C loop knows no mix
    rows = bench.both(quiet, C_ANSWER if has_yardstick else '', masscanned('-q'))
    if kind == 'mixed':
        rows += bench.both(quiet + ' --udp-budget off', quiet, masscanned(
            '-q', '--udp-budget', 'off'))
    rows += bench.both('masscanned.py > /dev/null', quiet, masscanned())
    rows += bench.both('masscanned.py > FILE', quiet, masscanned(log=bench.path('log')))
    for option in '--events', '--pcap':
        rows += bench.both('masscanned.py -q %s FILE' % option, quiet, masscanned(
            '-q', option, bench.path(option)), option)
    if has_yardstick:
        rows.insert(0, Figure(C_ANSWER, answering([bench.yardstick, 'answer', 'v1']), ''))
    elif not bench.yardstick:
        yield Missing(C_ANSWER, 'no C compiler (cc)')
    yield from in_turns(bench, rows, False)


@measure('answer-dns', 'answers/s', 'bare')
def dns_answered(bench, _):
    """DNS queries over UDP answered under overload, on one core, --udp-budget off."""
    return flood_rows(bench, 'dns')


@measure('answer-again', 'answers/s', 'bare')
def asked_again(bench, _):
    """The same requests over UDP with ever new ids, and DNS names that differ, on one core."""
    def masscanned(kind):
        return lambda folder: flooded(bench, responder_command(
            bench, '-q', '--udp-budget', 'off', folder=folder), kind)
    base = ''
    if bench.yardstick:
        base = C_ANSWER + ', DNS'
        yield Figure(base, flooded(bench, [bench.yardstick, 'answer', 'v1'], 'dns'), '')
    else:
        yield Missing(C_ANSWER, 'no C compiler (cc)')
    for name, kind in (('DNS, one name', 'dns'), ('SSDP search', 'ssdp'),
                       ('portmapper dump', 'rpc'), ('DNS, new names', 'names')):
        yield from bench.both(name, base, masscanned(kind))


def http_command(bench, most=0) -> 'list[str]':
    """argv of a client of real connections to the own block; most  exchanges, 0 = for ever."""
    if bench.yardstick:
        return [bench.yardstick, 'http', OWN_BLOCK[0], OWN_BLOCK[1], PARALLEL, most]
    bench.note('no C compiler: the HTTP client is a Python program, and the limit')
    return own(exchange_all, OWN_BLOCK[0], OWN_BLOCK[1], PARALLEL, most)


def exchange(bench, command) -> Look:
    """A responder and an HTTP client for a while -> what happened; count: complete exchanges."""
    lab = bench.lab
    with lab.running('far', command, bench.last) as responder:
        wait_ready(responder)
        with tempfile.TemporaryFile() as told:
            with lab.running('near', http_command(bench), bench.first, stdout=told) as client:
                look = lab.watch(responder, lab.connects, load=client)
            told.seek(0)
            done, failed = map(int, told.read().split()[-2:] or (0, 0))
    if failed:
        bench.note('%d of %d exchanges failed' % (failed, done + failed), 'failed')
    if not done:
        raise Failed('no exchange was completed')
    return look._replace(count=look.count * done / (done + failed))


@measure('answer-http', 'a second', 'bare')
def http_answered(bench, _):
    """Complete HTTP exchanges over real connections, each over one of its own."""
    found = {}

    def exchanges(command):
        def take():
            found.clear()
            look = found['last'] = exchange(bench, command)
            return look.count / look.time_s
        return take

    def masscanned(*more):
        return lambda folder: exchanges(responder_command(
            bench, *more, own='%s/%d' % OWN_BLOCK, folder=folder))

    def frames():
        look = found.get('last')
        if not look:
            raise Failed('the run before failed')
        bench.note('an exchange takes %.1f frames to the responder; then its core was busy %d %%'
                   % (look.sent / look.count, 100 * look.cpu_s / look.time_s), 'frames')
        return look.sent / look.time_s
    yield Figure('SYNs answered, -q', flooded(bench, responder_command(bench, '-q')), '')
    if bench.yardstick:
        yield Figure(C_ANSWER, exchanges([bench.yardstick, 'answer', 'v1', 'trust']), '')
    else:
        yield Missing(C_ANSWER, 'no C compiler (cc)')
    yield from original_rows(bench, exchanges)
    yield from bench.both('HTTP exchanges, -q', C_ANSWER if bench.yardstick else '',
                          masscanned('-q'))
    yield from bench.both('HTTP exchanges, -q --http 401', 'HTTP exchanges, -q',
                          masscanned('-q', '--http', '401'), '--http')
    yield Figure('their frames to the responder', frames, 'SYNs answered, -q')
    yield from bench.both('HTTP exchanges > /dev/null', 'HTTP exchanges, -q', masscanned())
    yield from bench.both('HTTP exchanges, -q --events FILE', 'HTTP exchanges, -q', masscanned(
        '-q', '--events-budget', 1000000, '--events', bench.path('events')), '--events')


@measure('answer-addresses', 'answers/s', 'bare')
def answered_for_addresses(bench, _):
    """SYNs answered for one own address, and for 65,536 that do not touch, on one core."""
    path = bench.path('own.txt')
    with open(path, 'w') as file:
        file.write(''.join('10.%d.%d.%d\n' % (78 + (number >> 15), number >> 7 & 255,
                                              number << 1 & 254) for number in range(65536)))
    one = responder_command(bench, '-q', own='10.78.0.0')
    many = bench.tool('masscanned.py', '-i', 'v1', '-f', path, '--user', 'root', '-q')
    yield Figure('1 own address', flooded(bench, one, base='10.78.0.0'), '')
    yield Figure('65,536 own addresses', flooded(bench, many, base='10.78.0.0'), '1 own address')


@measure('answer-protocols', 'answers/s', 'bare')
def answered_with_protocols(bench, _):
    """DNS, NTP and SNMP answered with that protocol alone, and among all, on one core."""
    def masscanned(kind, *more):
        return flooded(bench, responder_command(bench, '-q', '--udp-budget', 'off', *more), kind)
    for kind in ('dns', 'ntp', 'snmp'):
        alone = '--only ' + kind
        yield Figure(alone, masscanned(kind, '--only', kind), '')
        yield Figure(kind + ' of all protocols', masscanned(kind), alone)


@measure('answer-find', 'a second')
def protocols_found(bench, _):
    """Which of 200 protocols is it?  By the first octets, on one core."""
    count = bench.size(200000, 50000)
    for kind in FIRST_WORDS:
        yield Figure(kind, seconds_of(bench, count, find_protocols, kind, count), '')


@measure('answer-ssh', 'a second of CPU time')
def logins_taken(bench, _):
    """Logins over SSH with X25519, ed25519 and AES; key exchanges and signatures alone."""
    count = bench.size(400, 40)
    yield Figure('logins', seconds_of(bench, count, log_in_often, count), '')
    for name in SSH_PARTS:
        count = bench.size(100, 10)
        yield Figure(name, seconds_of(bench, count, exchange_often, name, count), '')


@measure('answer-ssh-flood', 'answers/s', 'bare')
def answered_beside_ssh(bench, _):
    """SYNs and DNS queries answered while 1,000 clients a second ask for a key exchange."""
    for kind, what in (('syn', 'SYNs'), ('dns', 'DNS queries')):
        take = flooded(bench, responder_command(bench, '-q', '--udp-budget', 'off'), kind)
        yield Figure(what, take, '')
        yield Figure(what + ' beside SSH', beside(bench, own(flood_ssh, OWN, 1000), take), what)


def beside(bench, command, take):
    """What takes a figure, while another program runs on the near side."""
    def take_beside():
        with bench.lab.running('near', command, bench.first):
            return take()
    return take_beside


@measure('answer-tls', 'handshakes a second of CPU time', 'bare')
def handshakes_answered(bench, _):
    """TLS 1.3 with a P-256 certificate and an HTTP request, against openssl s_server -www."""
    count, folder = bench.size(3000, 300), bench.path('state')
    missing = have('openssl s_server -www', 'openssl')

    def take_ours():
        command = responder_command(bench, '-q', '--tls-budget', 1000000, '--state-dir', folder)
        return handshakes(bench, 'far', command, OWN, 443, count)

    def take_theirs():
        chain = os.path.join(folder, 'tls-p256.pem')
        command = ['openssl', 's_server', '-quiet', '-www', '-accept', '4433', '-cert', chain,
                   '-key', chain]
        return handshakes(bench, 'near', command, '127.0.0.1', 4433, count)
    yield Figure('handshakes, -q', take_ours, '')
    yield missing or Figure('openssl s_server -www', take_theirs, 'handshakes, -q')


def handshakes(bench, side, command, address, port, count) -> float:
    """A server's command -> the handshakes that it answers in a second of its own CPU time."""
    with bench.lab.running(side, command, bench.last) as server:
        wait_ready(server)
        before = cpu_s(server.pid)
        client = own(shake_hands, address, port, count, HANDS)
        with bench.lab.running('near', client, bench.first) as talking:
            if talking.wait(300):
                raise Failed(os.pread(talking.errors.fileno(), 4096, 0).decode().split('\n')[-2])
        return count / (cpu_s(server.pid) - before)


@measure('answer-workers', 'answers/s', 'bare')
def answered_by_workers(bench, _):
    """SYNs answered by one and by two workers, on all cores but for the flood's part."""
    if len(cores()) < 3:
        bench.note('%d cores: the flood takes one of them, so two workers share what is left'
                   % len(cores()))
    for workers in (1, 2):
        yield Figure('--workers %d' % workers, flooded(bench, responder_command(
            bench, '-q', '--workers', workers, own='%s/%d' % OWN_BLOCK), 'syn', *OWN_BLOCK,
            pinned=False), '--workers 1' if workers > 1 else '')


@measure('answer-memory', 'MB resident, rings included', 'bare', rounds=1)
def memory_of_responder(bench, lab):
    """Memory of a responder: at its start, after many connections, after many spoofed SYNs."""
    connections, syns = bench.size(1000000, 20000), bench.size(10000000, 300000)
    found = {}

    def take():
        command = responder_command(bench, '-q', own='%s/%d' % OWN_BLOCK)
        with lab.running('far', command, bench.last) as responder:
            wait_ready(responder)
            start = memory_kb(responder.pid, 'VmRSS') / 1024
            connect_many(bench, connections)
            found['connections'] = memory_kb(responder.pid, 'VmRSS') / 1024
            answer_many(bench, responder, syns)
            found['syns'] = memory_kb(responder.pid, 'VmRSS') / 1024
            return start

    def later(name):
        def take():
            if name not in found:
                raise Failed('the run before failed')
            return found[name]
        return take
    yield Figure('at the start', take, '')
    yield Figure('after {:,} connections with HTTP'.format(connections), later('connections'),
              'at the start')
    yield Figure('after {:,} SYNs more, spoofed'.format(syns), later('syns'), 'at the start')


def connect_many(bench, count):
    """So many HTTP exchanges in succession."""
    with bench.lab.running('near', http_command(bench, count), bench.first,
                           stdout=subprocess.PIPE) as client:
        words = client.communicate(timeout=600)[0].split()[-3:]
    bench.note('{:,} exchanges, {:,} failed'.format(int(words[1]), int(words[2])))


def answer_many(bench, responder, count):
    """A flood until so many frames are answered."""
    lab = bench.lab
    sent, answered = lab.packets('near', 'tx'), lab.packets('far', 'tx')
    end = time.monotonic() + 300
    with lab.running('near', flood_command(bench, 'syn', *OWN_BLOCK), bench.first):
        while lab.packets('far', 'tx') - answered < count:
            check_alive(responder)
            if time.monotonic() > end:
                raise Failed('%d SYNs were not answered in 300 s' % count)
            time.sleep(0.05)
    bench.note('{:,} SYNs sent, {:,} answered'.format(
        lab.packets('near', 'tx') - sent, lab.packets('far', 'tx') - answered))


# ==== 8 Files =========================================================================

def seconds_of(bench, count, function, *args):
    """A function of `Load` -> a function that runs it: how many of count a second."""
    def take():
        command = own(function, *args, python=bench.python)
        process = spawn(command, None, bench.last, stderr=subprocess.PIPE)
        try:
            error = process.communicate(timeout=300)[1].decode('utf-8', 'replace')
        finally:
            kill(process)
        match = re.search(r'^seconds ([0-9.]+)$', error, re.M)
        if process.returncode or not match:
            raise Failed((error.strip().split('\n') or ['no words'])[-1][:200])
        return count / float(match.group(1))
    return take


def afresh(path, take):
    """A function that removes a file before it measures: what is appended to stays small."""
    def take_afresh():
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return take()
    return take_afresh


@measure('file-cba-write', 'results/s')
def file_cba_write(bench, _):
    """Results written, on one core."""
    count = bench.size(500000, 50000)
    for name, function, ending, base in (
            ('text lines', write_text_lines, 'txt', ''),
            ('CBA entries', write_entries, 'cba', 'text lines'),
            ('cscan.py -x -o: read, module, CBA', pass_entries, 'piped.cba', 'text lines')):
        path = bench.path('written.' + ending)
        yield Figure(name, afresh(path, seconds_of(bench, count, function, path, count)), base)


@measure('file-cba-read', 'results/s')
def file_cba_read(bench, _):
    """Results read, on one core."""
    count = bench.size(500000, 50000)
    text, cba = bench.path('read.txt'), bench.path('read.cba')
    seconds_of(bench, count, write_text_lines, text, count)()
    seconds_of(bench, count, write_entries, cba, count)()
    yield Figure('text lines', seconds_of(bench, count, read_text_lines, text), '')
    yield Figure('CBA entries, as a library', seconds_of(bench, count, read_entries, cba),
              'text lines')
    yield Figure('cba_reader.py -r', seconds_of(bench, count, print_entries, cba), 'text lines')


@measure('file-compile', 'ranges/s')
def file_compile(bench, _):
    """Ranges to a .csw, on one core."""
    count = bench.size(1000000, 50000)
    path = bench.path('ranges.txt')
    with open(path, 'w') as file:
        file.write(''.join('%s/%d\n' % (host, 24 + number % 9)
                           for number, host in enumerate(spread(count))))
    yield Figure('sorted lines', seconds_of(bench, count, sort_lines, path,
                 bench.path('sorted')), '')
    yield Figure('compile_targets.py', seconds_of(
        bench, count, compile_ranges, path, bench.path('ranges')), 'sorted lines')


# ==== 9 Report ========================================================================

def machine(python) -> dict:
    """What was measured on, for bench.json."""
    code = 'import platform; print(platform.python_implementation(), platform.python_version())'
    try:
        version = subprocess.check_output([python, '-c', code], stderr=subprocess.STDOUT,
                                          env=CLEAN, timeout=START_S)
    except (OSError, subprocess.SubprocessError) as error:
        raise cscan.UserError('argument --python: %r: no interpreter: %s' % (
            python, cscan.why(error))) from None
    match = re.search(r'^model name\s*: (.*)', read_text('/proc/cpuinfo'), re.M)
    return {'cpu': match.group(1) if match else platform.machine(), 'cores': len(cores()),
            'kernel': platform.release(), 'python': version.decode().strip()}


def machine_text(about, seconds) -> str:
    """The head of the table."""
    return ('%s, %d cores, Linux %s; %s\n'
            'Three rounds; a figure is their median, a ratio that of figures of one round (all '
            'three follow).\nFigures mean nothing alone: they are this machine at this hour. '
            'This takes about %s.\n' % (about['cpu'], about['cores'], about['kernel'],
                                       about['python'], cscan.duration_text(seconds)))


def write_json(path, record):
    """bench.json, whole or not at all."""
    try:
        with open(path + '.new', 'w') as file:
            json.dump(record, file, indent=1, sort_keys=True)
            file.write('\n')
        os.replace(path + '.new', path)
    except OSError as error:
        raise cscan.UserError('argument --json: %r: %s' % (path, cscan.why(error))) from None


# ==== 10 Command line =================================================================

EXAMPLES = '''\
examples:
  sudo python3 bench.py                                 everything
  sudo python3 bench.py --quick --only scan             the scanner, roughly
  sudo python3 bench.py --only answer-syn,answer-http --python /usr/bin/pypy3
  python3 bench.py --list                               what there is
'''


class Parser(argparse.ArgumentParser):
    """One line for a mistake."""

    def error(self, message):
        sys.stderr.write('bench: %s (see -h)\n' % message)
        sys.exit(2)


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = Parser(
        prog='bench.py', allow_abbrev=False, epilog=EXAMPLES,
        description='Measure cscan.py, masscanned.py and the file tools against their peers.',
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--only', metavar='NAME,...', action='append', default=[],
        help='these measurements, or all of scan, answer or file; * matches (default: all)')
    add('--quick', action='store_true', help='shorter and smaller: three minutes, rougher')
    add('--python', metavar='PATH', default=sys.executable,
        help='interpreter that runs the tools (default: this one)')
    add('--against', metavar='DIR', default='',
        help='a folder with an older cscan.py and masscanned.py: rows "before" in scan-turns and '
             'answer-*, of which ours are the multiple')
    add('--json', metavar='FILE', default='bench.json',
        help='where the figures go, written after each measurement (default: bench.json)')
    add('--list', action='store_true', help='print the measurements and exit')
    return parser


def choose(texts) -> 'list[Measurement]':
    """Values of --only -> the measurements, in their order."""
    wanted = [part.strip() for text in texts for part in text.split(',')] or ['*']
    chosen = set()
    for pattern in wanted:
        found = [name for name in MEASUREMENTS if fnmatch.fnmatchcase(name, pattern)
                 or name.startswith(pattern + '-')]
        if not found:
            raise cscan.UserError('argument --only: %r: no such measurement; --list shows them, '
                                  'as in scan-silent, scan or *-http' % pattern)
        chosen.update(found)
    return [each for name, each in MEASUREMENTS.items() if name in chosen]


def list_text(chosen) -> str:
    """--list: name, what, unit."""
    return ''.join('%-17s %s (%s)\n' % (each.name, each.about, each.unit)
                   for each in chosen)


def check_machine():
    """Raises UserError where nothing can be measured."""
    if os.geteuid():
        raise cscan.UserError('root is needed, for network namespaces: sudo python3 bench.py')
    if not shutil.which('ip', path=CLEAN['PATH']):
        raise cscan.UserError('`ip` is needed (Debian: iproute2)')


def check_against(folder):
    """Raises UserError if the older tools are not in a folder."""
    for name in ('cscan.py', 'masscanned.py') if folder else ():
        if not os.path.isfile(os.path.join(folder, name)):
            raise cscan.UserError('argument --against: %r: no %s in it; expected the folder of an '
                                  'older version' % (folder, name))


def interrupt(number, _):
    """SIGTERM, SIGHUP: leave by the same way as Ctrl-C."""
    raise KeyboardInterrupt(number)


def main(argv=None) -> int:
    """Command line -> exit status: 0 done, 1 error, 2 usage, 130 interrupted."""
    args = make_parser().parse_args(argv)
    try:
        chosen = choose(args.only)
        if args.list:
            sys.stdout.write(list_text(chosen))
            return 0
        check_against(args.against)
        check_machine()
        return run(args, chosen)
    except cscan.UserError as error:
        sys.stderr.write('bench: %s\n' % error)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)    # what Python would flush at exit
        return 1
    except OSError as error:
        sys.stderr.write('bench: %r: %s\n' % (error.filename or '', cscan.why(error)))
        return 1
    except KeyboardInterrupt:
        sys.stderr.write('\nbench: interrupted; what was measured so far is in %s\n' % args.json)
        return 130


def run(args, chosen) -> int:
    """Measure, print, write -> exit status; signals and limits are changed last of all."""
    record = {'date': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()), 'quick': args.quick,
              'machine': machine(args.python), 'measurements': {}}
    write_json(args.json, record)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(machine_text(record['machine'], sum(
        (9 if args.quick else 40) for _ in chosen)), flush=True)
    with tempfile.TemporaryDirectory(prefix='bench.') as folder:
        bench = Bench(args.python, args.quick, folder, record['machine']['python'],
                      os.path.abspath(args.against) if args.against else '')
        atexit.register(bench.close)
        for each in chosen:
            result = bench.run(each)
            record['measurements'][each.name] = result
            write_json(args.json, record)
            print(table_text(result) + '\n', flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
