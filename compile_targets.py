#!/usr/bin/env python3
"""compile_targets - range text -> target tables for cscan: .csw, .csp, or a baked cscan.

    python3 compile_targets.py -p 80,443 -i ranges.txt lab      writes lab.csw and lab.csp

One file, standard library only, CPython 3.6 or newer and PyPy.

Contents
    1 Formats           range text, .csw, .csp
    2 Output            blocks, files, a baked copy of cscan.py
    3 Command line

Input is one range a line: a.b.c.d, a.b.c.d/length (host bits are cleared) or a.b.c.d-e.f.g.h;
`#` starts a comment.  Ranges may overlap and come in any order.  A .csw is taken, too.
"""

import argparse
import errno
import itertools
import os
import re
import socket
import struct
import sys
import tempfile


# ==== 1 Formats =======================================================================

# ---- same in cba_reader.py and compile_targets.py and cscan.py and masscanned.py ----

class UserError(Exception):
    """What the user can mend, in one line: what, the value as repr, what was expected."""


def why(error: Exception) -> str:
    """OSError -> the kernel's words, without number and path; others -> their text."""
    return getattr(error, 'strerror', None) or str(error)

# ---- end of same in cba_reader.py and compile_targets.py and cscan.py and masscanned.py ----


# ---- same in compile_targets.py and cscan.py and masscanned.py ----

def merge_ranges(ranges: 'list[tuple[int, int]]') -> 'list[tuple[int, int]]':
    """Ranges in any order, overlapping or touching -> ascending, disjoint, apart."""
    merged = []
    end = -2
    for first, last in sorted(ranges):
        if first > end + 1:
            merged.append((first, last))
            end = last
        elif last > end:
            merged[-1] = merged[-1][0], last
            end = last
    return merged

# ---- end of same in compile_targets.py and cscan.py and masscanned.py ----


# ---- same in cscan.py and compile_targets.py ----

TABLE = struct.Struct('<III')       # .csw, .csp header: num max_idx mask; then num u32 pairs
ADDRESSES_MAX = 1 << 32
PORT_MAX = 65535
OCTET = r'(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])'
QUAD = OCTET + r'(?:\.' + OCTET + r'){3}'
RANGE = re.compile(r'(%s)(?:/([0-9]{1,2})|\s*-\s*(%s))?' % (QUAD, QUAD))
PORTS = re.compile(r'([0-9]{1,5})(?:-([0-9]{1,5}))?(?::([0-9]{1,10}))?')


def ip_number(text: str) -> int:
    """'10.0.0.1', known to be well-formed -> 167772161."""
    return int.from_bytes(socket.inet_aton(text), 'big')


def ip_text(ip: int) -> str:
    """167772161 -> '10.0.0.1'."""
    return socket.inet_ntoa(ip.to_bytes(4, 'big'))


def parse_range(text: str, where: str) -> 'tuple[int, int]':
    """a.b.c.d, a.b.c.d/len (host bits cleared) or a.b.c.d-e.f.g.h -> (first, last)."""
    match = RANGE.fullmatch(text)
    if not match:
        raise UserError('%s: %r: not an address, a.b.c.d/length or a.b.c.d-e.f.g.h'
                        % (where, text))
    low, length, high = match.groups()
    first = last = ip_number(low)
    if length:
        if int(length) > 32:
            raise UserError('%s: %r: the length is 0 to 32' % (where, text))
        hosts = (1 << 32 - int(length)) - 1
        first, last = first & ~hosts, first | hosts
    elif high:
        last = ip_number(high)
        if last < first:
            raise UserError('%s: %r: the last address is below the first' % (where, text))
    return first, last


def parse_range_lines(lines: 'list[str]', where: str) -> 'list[tuple[int, int]]':
    """Range text, a range a line, # comments -> merged ranges."""
    ranges = []
    for number, line in enumerate(lines, 1):
        text = line.partition('#')[0].strip()
        if text:
            ranges.append(parse_range(text, '%s:%d' % (where, number)))
    return merge_ranges(ranges)


def invert_ranges(ranges: 'list[tuple[int, int]]') -> 'list[tuple[int, int]]':
    """Merged ranges -> what they leave of 0.0.0.0-255.255.255.255."""
    edges = [-1] + [edge for pair in ranges for edge in pair] + [ADDRESSES_MAX]
    return [(low + 1, high - 1) for low, high in zip(edges[::2], edges[1::2]) if high - low > 1]


def count_addresses(ranges: 'list[tuple[int, int]]') -> int:
    """Merged ranges -> how many addresses they hold."""
    return sum(last - first + 1 for first, last in ranges)


def parse_portspec(text: str) -> 'list[tuple[int, int]]':
    """'80:2,8000-8002' -> [(80, 2), (8000, 1), (8001, 1), (8002, 1)], in this order."""
    ports = []
    for part in text.split(','):
        match = PORTS.fullmatch(part.strip())
        low, high, weight = (match.group(1), match.group(2) or match.group(1),
                             match.group(3) or '1') if match else (0, 0, 0)
        if not 1 <= int(low) <= int(high) <= PORT_MAX or not int(weight):
            raise UserError('argument -p: %r: %r is not port, port:weight, a-b or a-b:weight with '
                            'ports 1-65535 and weights from 1' % (text, part))
        ports += [(port, int(weight)) for port in range(int(low), int(high) + 1)]
    total = sum(weight for _, weight in ports)
    if total > ADDRESSES_MAX:
        raise UserError('argument -p: %r: weights of %d in all: at most %d'
                        % (text, total, ADDRESSES_MAX))
    return ports


def pack_table(pairs: 'list[tuple[int, int]]', where: str) -> bytes:
    """(key, how many) pairs -> bytes of a .csw (keys: last addresses) or .csp (keys: ports)."""
    sums = list(itertools.accumulate(count for _, count in pairs))
    if not sums or sums[-1] > ADDRESSES_MAX:
        raise UserError('%s: %d in all: from 1 to 4294967296 fit in a table'
                        % (where, sums[-1] if sums else 0))
    mask = (1 << (sums[-1] - 1).bit_length()) - 1
    flat = [word for (key, _), total in zip(pairs, sums) for word in (key, total - 1)]
    return TABLE.pack(len(pairs), sums[-1] - 1, mask) + struct.pack('<%dI' % len(flat), *flat)


def unpack_table(data: bytes, where: str) -> 'list[tuple[int, int]]':
    """Bytes of a .csw or .csp -> (key, how many) pairs; all but the keys is verified."""
    if len(data) < TABLE.size:
        raise UserError('%s: no .csw or .csp: %d bytes, the header alone has %d'
                        % (where, len(data), TABLE.size))
    num, top, mask = TABLE.unpack_from(data)
    if len(data) != TABLE.size + 8 * num:
        raise UserError('%s: no .csw or .csp, or cut: %d bytes, its %d pairs take %d'
                        % (where, len(data), num, TABLE.size + 8 * num))
    words = struct.unpack_from('<%dI' % (2 * num), data, TABLE.size)
    sums = [word + 1 for word in words[1::2]]
    counts = [high - low for low, high in zip([0] + sums, sums)]
    if not num or min(counts) < 1:
        raise UserError('%s: pair %d: its running total does not grow'
                        % (where, next((i for i, n in enumerate(counts, 1) if n < 1), 0)))
    if sums[-1] != top + 1 or mask != (1 << top.bit_length()) - 1:
        raise UserError('%s: total %d and mask %#x: %d and %#x were expected'
                        % (where, top, mask, sums[-1] - 1, (1 << (sums[-1] - 1).bit_length()) - 1))
    return list(zip(words[::2], counts))


def pack_csw(ranges: 'list[tuple[int, int]]', where: str) -> bytes:
    """Merged ranges -> bytes of a .csw file."""
    return pack_table([(last, last - first + 1) for first, last in ranges], where)


def unpack_csw(data: bytes, where: str) -> 'list[tuple[int, int]]':
    """Bytes of a .csw file -> merged ranges; raises UserError unless every field fits."""
    ranges = [(last - count + 1, last) for last, count in unpack_table(data, where)]
    end = -1
    for number, (first, last) in enumerate(ranges, 1):
        if first <= end:
            raise UserError('%s: range %d: not above the one before it' % (where, number))
        end = last
    return merge_ranges(ranges)


def unpack_csp(data: bytes, where: str) -> 'list[tuple[int, int]]':
    """Bytes of a .csp file -> (port, weight) pairs."""
    ports = unpack_table(data, where)
    for port, _ in ports:
        if not 1 <= port <= PORT_MAX:
            raise UserError('%s: port %d: ports are 1-65535' % (where, port))
    return ports


def read_file(path: str, what: str) -> bytes:
    """The bytes of a file, '-' = standard input; what  the option, for the message."""
    try:
        if path == '-':
            if not sys.stdin:
                raise OSError(errno.EBADF, 'standard input is closed')
            return sys.stdin.buffer.read()
        with open(path, 'rb') as file:
            return file.read()
    except OSError as error:
        raise UserError('%s: %r: %s' % (what, path, why(error))) from None


def read_ranges(path: str, what: str) -> 'list[tuple[int, int]]':
    """A .csw or a file of range text -> merged ranges; told apart by a NUL octet."""
    data = read_file(path, what)
    where = 'standard input' if path == '-' else path
    if b'\0' in data:
        return unpack_csw(data, where)
    lines = re.split('\r\n?|\n', data.decode('utf-8-sig', 'replace'))     # no others: splitlines()
    return parse_range_lines(lines, where)

# ---- end of same in cscan.py and compile_targets.py ----


# ==== 2 Output ========================================================================

BAKED_BEGIN, BAKED_END = '# ---- built-in targets ----\n', '# ---- end of built-in targets ----\n'


def range_text(first: int, last: int) -> str:
    """A range -> a.b.c.d-e.f.g.h, or a.b.c.d if it is one address."""
    return ip_text(first) if first == last else '%s-%s' % (ip_text(first), ip_text(last))


def range_blocks(first: int, last: int):
    """A range -> the fewest a.b.c.d/length blocks that make it up, ascending."""
    while first <= last:
        size = min(first & -first or ADDRESSES_MAX, 1 << (last - first + 1).bit_length() - 1)
        yield '%s/%d' % (ip_text(first), 32 - (size.bit_length() - 1))
        first += size


def bake(source: str, ranges, ports: 'str | None', modules: 'str | None', path: str) -> str:
    """Text of a cscan.py -> the same with these built-in targets, ports and modules."""
    head, begin, rest = source.partition(BAKED_BEGIN)
    old, end, tail = rest.partition(BAKED_END)
    if not end:
        raise UserError('argument -c: %r: no cscan.py: its built-in targets are missing' % path)
    kept = dict(re.findall(r'^(BUILTIN_PORTS|BUILTIN_MODULES) = (.+)$', old, re.M))
    if len(kept) != 2:
        raise UserError('argument -c: %r: no cscan.py: its built-in ports or modules are missing'
                        % path)
    lines = ['BAKED = True', "BUILTIN_RANGES = '''\\"]
    lines += [range_text(*pair) for pair in ranges]
    lines += ["'''", 'BUILTIN_PORTS = %s' % (repr(ports) if ports else kept['BUILTIN_PORTS']),
              'BUILTIN_MODULES = %s' % (repr(modules) if modules else kept['BUILTIN_MODULES'])]
    return head + begin + '\n'.join(lines) + '\n' + end + tail


def check_modules(source: str, modules: str, path: str):
    """Raises UserError if that cscan.py has not all of these modules."""
    known = re.findall(r"^@module\('(\w+)'", source, re.M)
    for name in re.split(r'[,\s]+', modules.strip(', ')):
        if name not in known and '/' not in name and not name.endswith('.py'):
            raise UserError('argument --modules: %r: %s has %s' % (name, path, ', '.join(known)))


def write_file(path: str, data: bytes, mode: int = 0o666):
    """Write a whole file or leave the old one: to a neighbour first, then renamed."""
    folder = os.path.dirname(path) or '.'
    temporary = None
    try:
        fd, temporary = tempfile.mkstemp(dir=folder, prefix=os.path.basename(path) + '.')
        with os.fdopen(fd, 'wb') as file:
            file.write(data)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, mode & ~mask)
        os.replace(temporary, path)
    except OSError as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        raise UserError('%r: %s' % (path, why(error))) from None


# ==== 3 Command line ==================================================================

EXAMPLES = '''\
examples:
  compile_targets.py -i ranges.txt lab                 lab.csw
  echo 10.0.0.0/8 | compile_targets.py -p 80:2,8080 lab    lab.csw and lab.csp
  compile_targets.py -b -i never.txt rest              all but these
  compile_targets.py -i a.txt -i b.txt --list          merged, as blocks, on standard output
  compile_targets.py -i lab.csw --list-ranges          what a .csw holds
  compile_targets.py -i lab.txt -p 5900 -c cscan.py --modules print labscan    labscan.py
'''


class Parser(argparse.ArgumentParser):
    """One line for a mistake."""

    def error(self, message):
        sys.stderr.write('compile_targets: %s (see -h)\n' % message)
        sys.exit(2)


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = Parser(
        prog='compile_targets.py', allow_abbrev=False, epilog=EXAMPLES,
        description='Compile target ranges and ports for cscan.',
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('output', metavar='OUTPUT', nargs='?', default='builtin',
        help='names of the files, without .csw, .csp, .py (default: builtin)')
    add('-b', action='store_true', help='invert: everything but these ranges')
    add('-p', metavar='SPEC', help='ports with weights: 80:2,443,8000-8010; writes OUTPUT.csp')
    add('-i', metavar='FILE', action='append', default=[],
        help='read ranges from FILE, text or .csw; may be repeated (default: standard input)')
    add('-c', metavar='CSCAN.PY',
        help='also write OUTPUT.py: a copy of this cscan.py with these built-in targets')
    add('--modules', metavar='LIST', help='with -c: the modules it enables')
    add('--list', action='store_true', help='print blocks (CIDR) and write nothing')
    add('--list-ranges', action='store_true', help='print a-b ranges and write nothing')
    return parser


def main(argv=None) -> int:
    """Command line -> exit status: 0 done, 1 error, 2 usage."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.modules and not args.c:
        parser.error('--modules %s: goes with -c' % args.modules)
    try:
        return run(args)
    except UserError as error:
        sys.stderr.write('compile_targets: %s\n' % error)
        return 1
    except KeyboardInterrupt:
        return 130


def run(args) -> int:
    """Read, then list or write -> exit status."""
    ports = parse_portspec(args.p) if args.p is not None else None
    if not args.i and sys.stdin and sys.stdin.isatty():
        sys.stderr.write('compile_targets: reading ranges from the terminal, Ctrl-D ends\n')
    ranges = merge_ranges([pair for path in args.i or ['-']
                           for pair in read_ranges(path, 'argument -i')])
    if args.b:
        ranges = invert_ranges(ranges)
    if not ranges:
        raise UserError('no addresses: at least one range was expected')
    if args.list or args.list_ranges:
        if not sys.stdout:
            raise UserError('standard output: closed')
        return print_ranges(ranges, args.list_ranges)
    write_tables(args, ranges, ports)
    return 0


# ---- same in cba_reader.py and compile_targets.py ----

def drop_output():
    """Send what Python would flush at exit to nowhere."""
    if sys.stdout:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

# ---- end of same in cba_reader.py and compile_targets.py ----


def print_ranges(ranges, as_ranges) -> int:
    """--list, --list-ranges."""
    try:
        for first, last in ranges:
            lines = [range_text(first, last)] if as_ranges else range_blocks(first, last)
            sys.stdout.write(''.join(line + '\n' for line in lines))
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()                       # the reader has seen enough
    except OSError as error:
        drop_output()
        raise UserError('standard output: %s' % why(error)) from None
    return 0


def write_tables(args, ranges, ports):
    """OUTPUT.csw, .csp and .py; everything is made before anything is written."""
    files = [('.csw', pack_csw(ranges, 'ranges'))]
    if ports:
        files.append(('.csp', pack_table(ports, 'argument -p')))
    if args.c:
        source = read_file(args.c, 'argument -c').decode('utf-8', 'replace')
        if args.modules is not None:
            check_modules(source, args.modules, args.c)
        files.append(('.py', bake(source, ranges, args.p, args.modules, args.c).encode()))
    for ending, data in files:
        write_file(args.output + ending, data, 0o777 if ending == '.py' else 0o666)


if __name__ == '__main__':
    sys.exit(main())
