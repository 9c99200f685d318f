#!/usr/bin/env python3
"""Tests of everything: python3 -m unittest test_all, or python3 test_all.py Engine.test_traps.

Standard library only.  Classes stand in the order of the layers.  Loopback addresses serve as
hosts; what needs root and `ip` makes network namespaces of its own (class Live), and is skipped
otherwise; LIVE=required turns a skip into a failure.  TEST_ALL=1 adds the long ones.
SEED=N repeats the random ones.
"""

import ast
import collections
import contextlib
import errno
import hashlib
import io
import ipaddress
import itertools
import os
import pty
import random
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import unittest.mock

try:
    import tracemalloc
except ImportError:                         # PyPy
    tracemalloc = None

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True

import cba_reader           # noqa: E402 - the three stand beside this file
import compile_targets      # noqa: E402
import cscan                # noqa: E402
from cscan import CBA_BIT, CBA_DATA, CBA_FILE, CBA_INT32, CBA_INT64, CBA_STR, UserError  # noqa

SEED = int(os.environ.get('SEED') or random.SystemRandom().getrandbits(32))
TEST_ALL = os.environ.get('TEST_ALL') == '1'
REQUIRED = os.environ.get('LIVE') == 'required'
TIMEOUT_S = 60
ALL = 1 << 32                               # addresses there are
LINGER_NONE = struct.pack('ii', 1, 0)


def setUpModule():
    sys.stderr.write('SEED=%d\n' % SEED)


# ==== Tables ==========================================================================

STANDARD = {                                # file: modules it may import
    'cba_reader.py': {'argparse', 'errno', 'itertools', 'os', 're', 'shutil', 'struct', 'sys',
                      'tempfile', 'time'},
    'compile_targets.py': {'argparse', 'errno', 'itertools', 'os', 're', 'socket', 'struct',
                           'sys', 'tempfile'},
    'cscan.py': {'argparse', 'array', 'bisect', 'collections', 'contextlib', 'errno', 'fcntl',
                 'heapq', 'itertools', 'math', 'os', 'random', 're', 'resource', 'select',
                 'shlex', 'signal', 'socket', 'stat', 'struct', 'sys', 'threading', 'time',
                 'types'},
    'masscanned.py': {'argparse', 'bisect', 'codecs', 'collections', 'ctypes', 'errno', 'fcntl',
                      'hashlib', 'ipaddress', 'itertools', 'mmap', 'os', 'pwd', 're', 'select',
                      'signal', 'socket', 'stat', 'struct', 'sys', 'tempfile', 'time', 'zlib'},
}
UNWANTED = {'typing', 'dataclasses', 'asyncio', 'enum', 'logging'}
EACH_ITS_OWN = {'EXAMPLES', 'Parser', 'make_parser', 'main', 'run', 'say', '__version__'}

# Range text: line, first and last address
RANGES = [
    ('10.0.0.1', '10.0.0.1', '10.0.0.1'),
    ('0.0.0.0', '0.0.0.0', '0.0.0.0'),
    ('255.255.255.255', '255.255.255.255', '255.255.255.255'),
    ('10.0.0.0/24', '10.0.0.0', '10.0.0.255'),
    ('10.0.0.77/24', '10.0.0.0', '10.0.0.255'),                 # host bits are cleared
    ('10.255.3.4/9', '10.128.0.0', '10.255.255.255'),
    ('255.255.255.255/0', '0.0.0.0', '255.255.255.255'),
    ('0.0.0.0/0', '0.0.0.0', '255.255.255.255'),
    ('1.2.3.4/32', '1.2.3.4', '1.2.3.4'),
    ('1.2.3.5/31', '1.2.3.4', '1.2.3.5'),
    ('1.2.3.4-1.2.3.4', '1.2.3.4', '1.2.3.4'),
    ('0.0.0.0-255.255.255.255', '0.0.0.0', '255.255.255.255'),
    ('9.255.255.255-10.0.0.0', '9.255.255.255', '10.0.0.0'),
    ('1.2.3.4 - 1.2.3.9', '1.2.3.4', '1.2.3.9'),
    ('  1.2.3.4\t', '1.2.3.4', '1.2.3.4'),
    ('1.2.3.4# comment', '1.2.3.4', '1.2.3.4'),
    ('1.2.3.0/24   # comment # 9.9.9.9', '1.2.3.0', '1.2.3.255'),
]

# Range text that is refused: line, what the message says besides file:line and the text
NO_RANGES = [
    ('10.0.0.256', 'not an address'), ('256.0.0.1', 'not an address'),
    ('10.0.0', 'not an address'), ('10', 'not an address'), ('10.0.0.0.1', 'not an address'),
    ('10..0.1', 'not an address'), ('.10.0.0.1', 'not an address'),
    ('10.0.0.1.', 'not an address'), ('-10.0.0.1', 'not an address'),
    ('010.0.0.1', 'not an address'), ('10.0.0.01', 'not an address'),   # octal to some
    ('00.0.0.0', 'not an address'), ('0x0a.0.0.1', 'not an address'),
    ('10.0.0.1000', 'not an address'), ('+1.0.0.1', 'not an address'),
    ('\u0661.0.0.1', 'not an address'), ('10.0.0.0/\u00b2', 'not an address'),
    ('10.0.0.0/', 'not an address'), ('10.0.0.0/-1', 'not an address'),
    ('10.0.0.0/8/8', 'not an address'), ('10.0.0.0/255.0.0.0', 'not an address'),
    ('10.0.0.0 /8', 'not an address'), ('10.0.0.0/8-10.0.0.9', 'not an address'),
    ('10.0.0.0-10.0.0.9/8', 'not an address'), ('10.0.0.1-', 'not an address'),
    ('10.0.0.1-5', 'not an address'), ('10.0.0.1--10.0.0.5', 'not an address'),
    ('10.0.0.1-10.0.0.256', 'not an address'), ('10.0.0.1-10.0.0.05', 'not an address'),
    ('10.0.0.1 10.0.0.2', 'not an address'), ('10.0.0.1,10.0.0.2', 'not an address'),
    ('10.0.0.1:80', 'not an address'), ('::1', 'not an address'), ('localhost', 'not an address'),
    ('; 10.0.0.1', 'not an address'), ('\x1b[2J', 'not an address'),
    ('10.0.0.0/33', '0 to 32'), ('10.0.0.0/99', '0 to 32'),
    ('10.0.0.5-10.0.0.4', 'below the first'), ('1.0.0.0-0.255.255.255', 'below the first'),
]

# Files of range text: what is special, their octets, lines of the same meaning
RANGE_FILES = [
    ('empty', b'', ''),
    ('only comments', b'# a\n\n   \n#b', ''),
    ('no newline at the end', b'1.2.3.4', '1.2.3.4'),
    ('CRLF', b'# a\r\n1.2.3.4\r\n\r\n5.6.7.8 # b\r\n', '1.2.3.4 5.6.7.8'),
    ('BOM', b'\xef\xbb\xbf1.2.3.4\n', '1.2.3.4'),
    ('BOM and CRLF', b'\xef\xbb\xbf# a\r\n1.2.3.4\r\n', '1.2.3.4'),
    ('Latin-1 in a comment', b'# caf\xe9\n1.2.3.4 # \xff\n', '1.2.3.4'),
    ('UTF-8 in a comment', '# caf\u00e9 \u4e2d\n1.2.3.4\n'.encode(), '1.2.3.4'),
    ('odd spaces in a comment', '# a\x0bb\x0cc\x1cd\u0085e\u2028f\n1.2.3.4\n'.encode(), '1.2.3.4'),
    ('sorted and merged', b'1.2.3.9\n1.2.3.4\n1.2.3.4-1.2.3.8\n1.2.3.6\n', '1.2.3.4-1.2.3.9'),
]

PORTSPECS = [                               # text, (port, weight) pairs
    ('80', [(80, 1)]), ('1', [(1, 1)]), ('65535', [(65535, 1)]),
    ('80:2,8080:1', [(80, 2), (8080, 1)]),
    ('80:3,443', [(80, 3), (443, 1)]),
    ('443,80', [(443, 1), (80, 1)]),        # order is kept
    ('80,80:2', [(80, 1), (80, 2)]),        # and so are repetitions
    ('8000-8002', [(8000, 1), (8001, 1), (8002, 1)]),
    ('8000-8001:7,1', [(8000, 7), (8001, 7), (1, 1)]),
    ('5-5', [(5, 1)]), (' 80 , 443 ', [(80, 1), (443, 1)]),
    ('80:4294967296', [(80, ALL)]),
]
NO_PORTSPECS = [
    '', ' ', ',', '80,', ',80', '80,,81', '0', '65536', '99999', '100000', '-1', '80-', '-80',
    '80:', ':2', ':', '80:0', '80:-1', '80:1.5', '80:2:3', '80:x', '90-80', '0-5', '0-0',
    '65530-65536', '1-2-3', '1-2:0', 'http', '80;443', '80 443', '0x50', '80.0', '+80',
    '\uff18\uff10', '\u00b2']

# What the original's compile_targets.py wrote: name, input, portspec, .csw, .csp
REFERENCES = [
    ('test', b'0.0.0.0-0.0.0.5\n0.0.0.40-0.0.0.45\n0.0.0.50-0.0.0.54\n', '80',
     '03000000 10000000 1f000000  05000000 05000000  2d000000 0b000000  36000000 10000000',
     '01000000 00000000 00000000  50000000 00000000'),
    ('lab24', b'10.0.0.0/24\n', '80:2,5900,5901,5902,6007,9:2',
     '01000000 ff000000 ff000000  ff00000a ff000000',
     '06000000 07000000 07000000  50000000 01000000  0c170000 02000000  0d170000 03000000'
     '0e170000 04000000  77170000 05000000  09000000 07000000'),
    ('all', b'0.0.0.0/0\n', '1-3:2',                            # these two by hand, formats.md
     '01000000 ffffffff ffffffff  ffffffff ffffffff',
     '03000000 05000000 07000000  01000000 01000000  02000000 03000000  03000000 05000000'),
    ('one', b'1.2.3.4\n', '65535',
     '01000000 00000000 00000000  04030201 00000000',
     '01000000 00000000 00000000  ffff0000 00000000'),
]
PRESET_DIGESTS = {                          # SHA-256 of the original's presets/NAME.csw
    'private': 'a97c44a876098e73c54846613974f0c04170df16573cbaf2fb79ffb0dcc841f9',
    'public': '4a35de5982895488dc2e53bfdc73cd2cb5c72600feb9f9cb793dc07777b6472f',
    'public-all': '07be92e270f7aa6940e75c3c1309087a2c4ea7695ecf99eaec8b80216c2050f2',
}

# Tables that are refused: what is wrong, num, max_idx, mask, words of the pairs, more octets
NO_CSW = [
    ('no pair', 0, 0, 0, [], b''),
    ('one octet more', 1, 0, 0, [5, 0], b'\0'),
    ('a pair more', 1, 0, 0, [5, 0, 9, 1], b''),
    ('a pair less', 2, 1, 1, [5, 0], b''),
    ('num far too large', 0xffffffff, 0, 0, [5, 0], b''),
    ('total too small', 1, 1, 1, [5, 2], b''),
    ('total too large', 1, 3, 3, [5, 2], b''),
    ('mask too small', 1, 4, 3, [9, 4], b''),
    ('mask too large', 1, 4, 15, [9, 4], b''),
    ('mask not of ones', 1, 4, 5, [9, 4], b''),
    ('mask for one address', 1, 0, 1, [9, 0], b''),
    ('unsorted', 2, 1, 1, [9, 0, 5, 1], b''),
    ('overlapping', 2, 7, 7, [9, 3, 12, 7], b''),
    ('twice the same', 2, 1, 1, [9, 0, 9, 1], b''),
    ('second of no size', 2, 1, 1, [9, 1, 12, 1], b''),
    ('second of less than none', 2, 1, 1, [9, 2, 12, 1], b''),
    ('below 0.0.0.0', 1, 6, 7, [5, 6], b''),
    ('far below 0.0.0.0', 1, 0xffffffff, 0xffffffff, [5, 0xffffffff], b''),
]
NO_CSP = [
    ('no pair', 0, 0, 0, [], b''),
    ('one octet more', 1, 0, 0, [80, 0], b'\0'),
    ('port 0', 1, 0, 0, [0, 0], b''),
    ('port 65536', 1, 0, 0, [65536, 0], b''),
    ('port 2**32-1', 1, 0, 0, [0xffffffff, 0], b''),
    ('second port 0', 2, 1, 1, [80, 0, 0, 1], b''),
    ('weight 0', 2, 1, 1, [80, 1, 81, 1], b''),
    ('weights fall', 2, 1, 1, [80, 3, 81, 1], b''),
    ('total wrong', 1, 2, 3, [80, 1], b''),
    ('mask wrong', 1, 1, 3, [80, 1], b''),
]

# What seed 1 gives, on every interpreter (by this program: a change is a new order for users)
ORDER_1000 = [264, 702, 710, 711, 661, 316, 136, 653, 262, 85]
DRAWS = '10.0.0.74:80 10.0.0.223:443 10.0.0.48:443 10.0.0.209:80 10.0.0.60:80'

# -f: text, ranges; and text, what the message says
SPECS = [
    ('private', '10.0.0.0-10.255.255.255 172.16.0.0-172.31.255.255 192.168.0.0-192.168.255.255'),
    ('10.0.0.0/8', '10.0.0.0-10.255.255.255'),
    ('10.0.0.9,10.0.0.0-10.0.0.3', '10.0.0.0-10.0.0.3 10.0.0.9'),
    (' 10.0.0.1 , 10.0.0.2 ', '10.0.0.1-10.0.0.2'),
    ('10.0.0.1 - 10.0.0.2', '10.0.0.1-10.0.0.2'),
]
NO_SPECS = [
    ('nothing-like-this', 'private'), ('no/such/file.txt', 'public'), ('Private', 'default'),
    ('', 'ranges'), ('10.0.0.0/33', '0 to 32'), ('10.0.0.1,', "''"), (',', "''"),
    ('10.0.0.9-10.0.0.1', 'below'), ('010.0.0.1', 'not an address'), ('example.org', 'file'),
    ('private,10.0.0.1', 'file'), ('10.0.0.1 10.0.0.2', 'not an address'),
]

# compile_targets.py: arguments, standard input, status, what the line on stderr says
NO_COMPILE = [
    (['-Z'], b'1.2.3.4', 2, '-Z'), (['a', 'b'], b'1.2.3.4', 2, 'b'),
    (['-p'], b'1.2.3.4', 2, '-p'), (['--modules', 'print', 'x'], b'1.2.3.4', 2, '--modules'),
    (['--list-r'], b'1.2.3.4', 2, '--list-r'),
    (['x'], b'1.2.3.4\n1.2.3.4.5\n', 1, "standard input:2: '1.2.3.4.5'"),
    (['x'], b'', 1, 'no addresses'), (['-b', 'x'], b'0.0.0.0/0', 1, 'no addresses'),
    (['-p', '80,0', 'x'], b'1.2.3.4', 1, "'80,0'"), (['-p', '', 'x'], b'1.2.3.4', 1, "''"),
    (['-p', '1:4294967296,2', 'x'], b'1.2.3.4', 1, '4294967297'),
    (['-i', 'missing', 'x'], b'1.2.3.4', 1, "'missing': No such file"),
    (['-i', '.', 'x'], b'1.2.3.4', 1, "'.': Is a directory"),
    (['-i', 'good.txt', '-i', 'bad.txt', 'x'], b'', 1, "bad.txt:3: '1.2.3'"),
    (['-i', 'bad.csw', 'x'], b'', 1, 'bad.csw: '),
    (['no/such/x'], b'1.2.3.4', 1, 'No such file'), (['good.txt/x'], b'1.2.3.4', 1, "good.txt/x"),
    (['-c', 'missing.py', 'x'], b'1.2.3.4', 1, "'missing.py': No such file"),
    (['-c', 'good.txt', 'x'], b'1.2.3.4', 1, "'good.txt': no cscan.py"),
    (['-c', 'marks.py', 'x'], b'1.2.3.4', 1, "'marks.py'"),
    (['-c', os.path.join(HERE, 'compile_targets.py'), 'x'], b'1.2.3.4', 1, 'no cscan.py'),
]
COMPILE_FILES = {                           # what lies there before
    'good.txt': b'1.2.3.0/24\n', 'bad.txt': b'# a\n1.2.3.4\n1.2.3\n', 'bad.csw': b'\0' * 20,
    'marks.py': b'# ---- built-in targets ----\n# ---- end of built-in targets ----\n',
    'x.csw': b'old', 'x.csp': b'old', 'x.py': b'old'}

# The first 519 octets of a file that the original wrote, and the module threads' part of it
CBA_REAL = bytes.fromhex(
    '4c000005637363616e00840a0000001400000000850b00000038f8006b00000000000400000000000400000000'
    '01000001010f0031302e302e302e3131313a3539303101000372666201011500766e633a2f2f31302e302e302e'
    '3131313a3539303101810500000021004572726f723a20546f6f206d616e79207365637572697479206661696c'
    '7572657301000001010f0031302e302e302e3131333a3539303101000372666201011500766e633a2f2f31302e'
    '302e302e3131333a3539303101810500000021004572726f723a20546f6f206d616e7920736563757269747920'
    '6661696c7572657301000001010f0031302e302e302e3131373a3539303101000372666201011500766e633a2f'
    '2f31302e302e302e3131373a3539303101810500000021004572726f723a20546f6f206d616e79207365637572'
    '697479206661696c7572657301000001010d0031302e302e302e3235343a383001000378313101011300783131'
    '3a2f2f31302e302e302e3235343a383001860200000001000001010f0031302e302e302e3134303a3630303700'
    '850b00000039f8006b0000000000042000000000041b00000000850b00000039f8006b00000000000400000000'
    '00040000000000850b00000039f8006b0000000000042000000000041a00000001000378313101011500783131'
    '3a2f2f31302e302e302e3134303a36303037018604000000')
CBA_REAL_ENTRIES = [
    ('', [(CBA_STR, 0, '10.0.0.111:5901')]),
    ('rfb', [(CBA_STR, 0, 'vnc://10.0.0.111:5901'),
             (CBA_STR, 5, 'Error: Too many security failures')]),
    ('', [(CBA_STR, 0, '10.0.0.113:5901')]),
    ('rfb', [(CBA_STR, 0, 'vnc://10.0.0.113:5901'),
             (CBA_STR, 5, 'Error: Too many security failures')]),
    ('', [(CBA_STR, 0, '10.0.0.117:5901')]),
    ('rfb', [(CBA_STR, 0, 'vnc://10.0.0.117:5901'),
             (CBA_STR, 5, 'Error: Too many security failures')]),
    ('', [(CBA_STR, 0, '10.0.0.254:80')]),
    ('x11', [(CBA_STR, 0, 'x11://10.0.0.254:80'), (CBA_BIT, 2, True)]),
    ('', [(CBA_STR, 0, '10.0.0.140:6007')]),
]
CBA_REAL_LAST = [                           # open at the end: thread 0, then thread 1
    ('cscan', [(CBA_INT32, 10, 20),
               (CBA_INT64, 11, 1795225656), (CBA_INT32, 0, 0), (CBA_INT32, 0, 0),
               (CBA_INT64, 11, 1795225657), (CBA_INT32, 0, 32), (CBA_INT32, 0, 27),
               (CBA_INT64, 11, 1795225657), (CBA_INT32, 0, 0), (CBA_INT32, 0, 0),
               (CBA_INT64, 11, 1795225657), (CBA_INT32, 0, 32), (CBA_INT32, 0, 26)]),
    ('x11', [(CBA_STR, 0, 'x11://10.0.0.140:6007'), (CBA_BIT, 4, True)]),
]
REAL_STATS = '''\
Stats:
2026-11-21 01:47:36: 0 new events, 0 new results
2026-11-21 01:47:37: 32 new events, 27 new results
2026-11-21 01:47:37: 0 new events, 0 new results
2026-11-21 01:47:37: 32 new events, 26 new results
Min events: 2026-11-21 01:47:36: 0 new events, 0 new results
Max events: 2026-11-21 01:47:37: 32 new events, 27 new results
'''
REAL_RESULTS = '''\
10.0.0.111:5901
10.0.0.113:5901
10.0.0.117:5901
10.0.0.254:80
10.0.0.140:6007
'''

# All event kinds as the original wrote them, its 66004-octet streams of mostly zeros left out
CBA_ALL = [
    '4c 0000056d796d6f64 0001070076697369626c65 00810c0000000f006c6f6c74657374206c6f6c793a3535'
    '0000066d796d6f6432 0004c7010000 00862b020000 0003',
    '00020b00626967646174612e636f6d']
CBA_ALL_DIGEST = '034cd2289a8015c002708dd66e2faa5222753a5d5756c48ed40c032cccf59256'

# Out: call, its packet in an L file and in a B file, without the thread id that starts it; lines
WRITES = [
    ('bit', (6,), '86 06000000', '86 00000006', ['bit set for code 6']),
    ('bit', (0,), '06', '06', ['bit set for code 0']),
    ('str', ('ab',), '01 0200 6162', '01 0002 6162', ['ab']),
    ('str', ('ab', 5), '81 05000000 0200 6162', '81 00000005 0002 6162', ['ab']),
    ('str', ('',), '01 0000', '01 0000', ['']),
    ('str', ('\xe9',), '01 0100 e9', '01 0001 e9', ['\xe9']),
    ('str', ('\u20ac',), '01 0600 5c7532306163', '01 0006 5c7532306163', ['\u20ac']),
    ('int32', (-2,), '04 feffffff', '04 fffffffe', ['int32 -2']),
    ('int32', (2147483647, 70000), '84 70110100 ffffff7f', '84 00011170 7fffffff',
     ['int32 2147483647']),
    ('int64', (1 << 40, 11), '85 0b000000 0000000000010000', '85 0000000b 0000010000000000',
     ['int64 1099511627776']),
    ('int64', (-1,), '05 ffffffffffffffff', '05 ffffffffffffffff', ['int64 -1']),
    ('data', (b'',), '03 07 0000', '03 07 0000', ['binary data of length 0']),
    ('data', (b'xyz', 2), '83 02000000 07 0300 78797a 07 0000',
     '83 00000002 07 0003 78797a 07 0000', ['binary data of length 3']),
    ('file', ('n', b'q'), '02 0100 6e 07 0100 71 07 0000', '02 0001 6e 07 0001 71 07 0000',
     ['saving file n']),
    ('file', ('n', b'', 3), '82 03000000 0100 6e 07 0000', '82 00000003 0001 6e 07 0000',
     ['saving file n']),
]

CBA_ODD = [                                 # what we never write but the format allows
    ('HEAD with a code', '4c 01 80 05000000 01 6d  01 06', [('m', [(CBA_BIT, 0, True)])]),
    ('no HEAD', '4c 01 06', [('', [(CBA_BIT, 0, True)])]),
    ('code 0 written out', '4c 01 86 00000000', [('', [(CBA_BIT, 0, True)])]),
    ('HEAD twice', '4c 01 00 01 6d  01 00 01 6e  01 06', [('n', [(CBA_BIT, 0, True)])]),
    ('thread 255', '42 ff 86 00000009', [('', [(CBA_BIT, 9, True)])]),
    ('longest STR', '4c 01 01 ffff' + '78' * 65535, [('', [(CBA_STR, 0, 'x' * 65535)])]),
    ('only the mark', '42', []), ('nothing', '', []),
]

NO_CBA = [                                  # files that nothing may be appended to
    ('text', b'hello\n'), ('results', b'10.0.0.1:80\n'), ('text with L', b'List of targets\n'),
    ('text with B', b'Big\n'), ('program', b'\x7fELF\x02\x01\x01'), ('zeros', bytes(64)),
    ('small l', b'l\0\0\0'), ('type 7', b'L\x01\x07'), ('type 127', b'B\x01\xff\0\0\0\0'),
    ('damaged', CBA_REAL + b'\x05\x7fmore'),
]

# Names that strangers choose, and where their files may be
NAMES = [
    ('x', 'x'), ('a/b/c', 'a/b/c'), ('../x', 'x'), ('../../../x', 'x'), ('/etc/x', 'etc/x'),
    ('//x', 'x'), ('a/../../x', 'a/x'), ('a/..', 'a'), ('a//b', 'a/b'), ('a/./b', 'a/b'),
    ('a/', 'a'), ('', 'unnamed'), ('.', 'unnamed'), ('..', 'unnamed'), ('/', 'unnamed'),
    ('../..', 'unnamed'), ('...', '...'), ('.x', '.x'), ('x\0y', 'x_y'), ('..\0', '.._'),
    ('.\0.', '._.'), ('a\nb', 'a_b'), ('\x1b[2J', '_[2J'), ('a\x7f\x9b', 'a__'), ('\xe9', '_'),
    ('-rf', '-rf'), ('~', '~'), ('a\\..\\b', 'a\\..\\b'), ('$(id)', '$(id)'),
    ('x' * 5000, 'x' * 200), ('x' * 5000 + '/y', 'x' * 200 + '/y'),
    ('a/' * 40 + 'b', 'a/' * 15 + 'b'),
]

# Contents of the entry `cscan` that make no sense: how, packets
STRANGE = [
    ('time before the Flood', '00 85 0b000000 00000000000000c0  00 04 01000000  00 04 02000000'),
    ('time after the Sun', '00 85 0b000000 ffffffffffffff7f  00 04 01000000  00 04 02000000'),
    ('counters are strings', '00 85 0b000000 0100000000000000  00 01 0100 61  00 01 0100 62'),
    ('one counter is a string', '00 85 0b000000 0100000000000000  00 04 01000000  00 01 0100 62'),
    ('time is a string', '00 81 0b000000 0100 61  00 04 01000000  00 04 02000000'),
    ('time is a flag', '00 86 0b000000  00 04 01000000  00 04 02000000'),
    ('time is data', '00 83 0b000000 00 0000  00 04 01000000  00 04 02000000'),
    ('event is a number', '00 84 14000000 01000000'),
    ('event is data', '00 83 14000000 00 0200 1b5b  00 0000'),
    ('no counter', '00 85 0b000000 0100000000000000'),
    ('canary is a string', '00 81 15000000 0100 61'),
]


# ==== Helpers =========================================================================

def run_tool(tool, args, stdin=b'', redirect='', **options):
    """Run a tool -> (status, stdout, stderr); redirect  for sh, e.g. '<&-' or '>/dev/full'."""
    command = [sys.executable, os.path.join(HERE, tool)] + list(args)
    if redirect:
        command = ['/bin/sh', '-c', 'exec "$0" "$@" ' + redirect] + command
    environment = {'PATH': os.environ.get('PATH', '/usr/bin:/bin'), 'LC_ALL': 'C.UTF-8',
                   'TZ': 'UTC', 'PYTHONDONTWRITEBYTECODE': '1'}
    done = subprocess.run(command, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=TIMEOUT_S, env=environment, **options)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def call(main, args):
    """main(args) in this process -> (status, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(args)
        except SystemExit as leaving:
            status = leaving.code
    return status, out.getvalue(), err.getvalue()


def ip(text):
    return int(ipaddress.IPv4Address(text))


def pairs(text):
    """'1.2.3.4-1.2.3.9 5.6.7.8' -> [(first, last), ...]."""
    return [(ip(part.split('-')[0]), ip(part.split('-')[-1])) for part in text.split()]


def members(ranges):
    assert sum(last - first for first, last in ranges) < 1 << 20, 'too many to hold'
    return {number for first, last in ranges for number in range(first, last + 1)}


def hosts_of(ranges):
    return [str(ipaddress.IPv4Address(number)) for number in sorted(members(ranges))]


def table(num, top, mask, words, more=b''):
    return struct.pack('<III%dI' % len(words), num, top, mask, *words) + more


def as_lists(entries):
    return [(entry.module, entry.events) for entry in entries]


def read_cba(data, *args, **options):
    """Octets -> [(module, events)]."""
    return as_lists(cba_reader.CBA(io.BytesIO(data), *args, **options).entries())


class Made:
    """A CBA file written by hand from formats.md, and what a cut of it holds.

    steps   (offset behind it, thread, what, value) of each packet; what: head, event, open,
            chunk, end
    """

    def __init__(self, order='<'):
        self.order, self.steps = order, []
        self.data = b'L' if order == '<' else b'B'

    def add(self, thread, octets, what, value=None):
        self.data += bytes([thread]) + octets
        self.steps.append((len(self.data), thread, what, value))
        return self

    def pack(self, fields, *values):
        return struct.pack(self.order + fields, *values)

    def kind(self, kind, code):
        return bytes([kind | 0x80]) + self.pack('I', code) if code else bytes([kind])

    def counted(self, text):
        return self.pack('H', len(text)) + text.encode('latin-1')

    def head(self, thread, module):
        return self.add(thread, bytes([0, len(module)]) + module.encode('latin-1'), 'head', module)

    def event(self, thread, kind, code, value):
        body = {CBA_STR: lambda: self.counted(value), CBA_INT32: lambda: self.pack('i', value),
                CBA_INT64: lambda: self.pack('q', value), CBA_BIT: lambda: b''}[kind]()
        return self.add(thread, self.kind(kind, code) + body, 'event', (kind, code, value))

    def begin(self, thread, kind, code, name=None):
        head = self.kind(kind, code) + (b'' if name is None else self.counted(name))
        return self.add(thread, head, 'open', (kind, code, name))

    def chunk(self, thread, octets):
        return self.add(thread, self.pack('H', len(octets)) + octets, 'chunk', octets)

    def end(self, thread):
        return self.add(thread, b'\0\0', 'end')

    def cut(self, at):
        """What is whole before this offset, as a file of its own."""
        cut = Made(self.order)
        cut.steps = [step for step in self.steps if step[0] <= at]
        cut.data = self.data[:cut.steps[-1][0] if cut.steps else 1]
        return cut

    def open_threads(self):
        threads = collections.OrderedDict()
        for _, thread, what, _ in self.steps:
            if what == 'open':
                threads[thread] = True
            elif what == 'end':
                del threads[thread]
        return list(threads)

    def entries(self):
        """[(module, events)] in the order in which they end."""
        ended, now, streams = [], {}, {}
        for _, thread, what, value in self.steps:
            if what == 'head':
                ended.append(now.pop(thread, ('', [])))
                now[thread] = value, []
            elif what == 'event':
                now[thread][1].append(value)
            elif what == 'open':
                streams[thread] = value, []
            elif what == 'chunk':
                streams[thread][1].append(value)
            else:
                (kind, code, name), pieces = streams.pop(thread)
                now[thread][1].append((kind, code, b''.join(pieces) if name is None else name))
        return [entry for entry in ended + [now[thread] for thread in sorted(now)] if entry[1]]


def sample(order='<'):
    """All kinds, three threads, two streams that overlap."""
    made = Made(order).head(0, 'cscan').event(0, CBA_INT32, 10, 1000)
    made.head(1, '').event(1, CBA_STR, 0, '1.2.3.4:80')
    made.head(2, 'rfb').event(2, CBA_STR, 0, 'vnc://1.2.3.4:5900')
    made.begin(2, CBA_DATA, 2).chunk(2, b'RFB 0')
    made.event(0, CBA_INT64, 11, 1 << 33).event(0, CBA_INT32, 0, -1).event(0, CBA_INT32, 0, 7)
    made.head(1, 'files').begin(1, CBA_FILE, 0, 'a/\xe9.txt').chunk(1, b'\1\2\3').chunk(2, b'03')
    made.end(2).event(2, CBA_BIT, 6, True).chunk(1, b'L').event(0, CBA_STR, 20, 'caf\xe9')
    made.end(1).event(1, CBA_STR, 70000, 'after')
    made.head(2, 'rfb').event(2, CBA_STR, 0, 'vnc://5.6.7.8:5901').event(2, CBA_BIT, 1, True)
    return made.head(1, '').event(1, CBA_STR, 0, '5.6.7.8:5901')


class Case(unittest.TestCase):
    """A folder for each test, and what it is to refuse something."""

    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix='cscan-test.')
        self.addCleanup(holder.cleanup)
        self.folder = holder.name

    def path(self, name, data=None):
        path = os.path.join(self.folder, name)
        if data is not None:
            with open(path, 'wb') as file:
                file.write(data)
        return path

    def read(self, name):
        with open(self.path(name), 'rb') as file:
            return file.read()

    @contextlib.contextmanager
    def file_limit(self, size):
        """No file of this process may grow beyond size: as good as a full disk."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def look(self, folder=None):
        """{path below the folder: octets, or where a link points to}."""
        found = {}
        for here, folders, files in os.walk(folder or self.folder):
            for name in folders + files:
                path = os.path.join(here, name)
                if os.path.islink(path):
                    octets = '-> ' + os.readlink(path)
                elif os.path.isdir(path):
                    continue
                else:
                    with open(path, 'rb') as file:
                        octets = file.read()
                found[os.path.relpath(path, folder or self.folder)] = octets
        return found

    def assert_line(self, text, *parts):
        """One line, harmless on a terminal, with these parts."""
        self.assertRegex(text, r'\A[^\n]+\n?\Z')
        self.assertTrue(text.rstrip('\n').isprintable(), text)
        for part in parts:
            self.assertIn(part, text)

    def assert_refused(self, parts, function, *args):
        with self.assertRaises(UserError) as caught:
            function(*args)
        self.assert_line(str(caught.exception), *parts)

    def assert_stop(self, done, status, *parts):
        """A program's end by a user's mistake: status, nothing on stdout, one line on stderr."""
        self.assertEqual((done[0], done[1]), (status, ''), done[2])
        self.assert_line(done[2], *parts)


def tool(name, *args):
    """argv that runs one of our files with the interpreter under test."""
    return [sys.executable, os.path.join(HERE, name)] + [str(arg) for arg in args]


def run(name, *args, **options):
    """run_tool with the arguments one by one, whatever their types."""
    return run_tool(name, [str(arg) for arg in args], **options)


def wait_until(true, seconds=20):
    """Wait for a condition; returns its value, fails after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = true()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError('waited %s s for %s' % (seconds, true))


@contextlib.contextmanager
def patched(thing, **values):
    """Attributes of a module or object, changed for a while."""
    before = {name: getattr(thing, name) for name in values}
    for name, value in values.items():
        setattr(thing, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(thing, name, value)


class Hosts:
    """Loopback sockets that play the hosts of a net."""

    def __init__(self, case):
        self.case = case

    def keep(self, sock):
        self.case.addCleanup(sock.close)
        return sock

    def listener(self, host='127.0.0.1', port=0, backlog=100):
        sock = self.keep(socket.socket())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(backlog)
        return sock

    def open(self, host='127.0.0.1', port=0):
        """A target that accepts."""
        return self.listener(host, port).getsockname()

    def serving(self, host='127.0.0.1', greeting=b''):
        """A target that accepts again and again: without accept() the queue fills up."""
        listener = self.listener(host)

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = listener.accept()
                    with contextlib.suppress(OSError), peer:
                        peer.sendall(greeting)
        threading.Thread(target=serve, daemon=True).start()
        self.case.addCleanup(listener.shutdown, socket.SHUT_RDWR)   # ends accept()
        return listener.getsockname()

    def closed(self, host='127.0.0.1'):
        """A target that refuses: bound, so that nobody else takes it, and not listening."""
        sock = self.keep(socket.socket())
        sock.bind((host, 0))
        return sock.getsockname()

    def silent(self, host='127.0.0.1'):
        """A target that does not answer: Linux drops SYNs to a listener whose queue is full."""
        address = self.listener(host, backlog=0).getsockname()
        for _ in range(3):
            sock = self.keep(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(address)
        probe = self.keep(socket.socket())
        probe.setblocking(False)
        probe.connect_ex(address)
        assert probe.connect_ex(address) == errno.EALREADY, 'a full listener answers here'
        return address


class StubCrew:
    """Takes results; says that it is full when told."""

    def __init__(self):
        self.results, self.held, self.enough = [], False, False

    def put(self, host, port):
        self.results.append((host, port))

    def full(self):
        return self.held


class StubConsole:
    """Keeps notes."""
    gone, failed, tty, quiet = False, '', False, True

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)

    progress = note

    def status(self, text):
        self.notes.append(text)

    def clear(self):
        pass


class StubSink:
    """Takes nothing, fails never."""
    failed = ''

    def look(self):
        pass


# ==== Formats =========================================================================

class Formats(Case):
    """Range text, portspecs, .csw and .csp: what is read, what is refused, range arithmetic."""

    def test_range_text(self):
        for line, first, last in RANGES:
            with self.subTest(line=line):
                self.assertEqual(cscan.parse_range_lines([line], 't.txt'), [(ip(first), ip(last))])

    def test_no_range_text(self):
        for line, part in NO_RANGES:
            with self.subTest(line=line):
                self.assert_refused(['t.txt:3: %r: ' % line, part], cscan.parse_range_lines,
                                    ['# first', '1.2.3.4', line, '5.6.7.8'], 't.txt')

    def test_range_files(self):
        for name, data, text in RANGE_FILES:
            with self.subTest(file=name):
                self.assertEqual(cscan.read_ranges(self.path('r.txt', data), '-f'), pairs(text))

    def test_line_numbers(self):
        path = self.path('r.txt', b'\xef\xbb\xbf# a\r\n\r\n1.2.3.4\r\n1.2.3\r\n')
        self.assert_refused([path + ":4: '1.2.3'"], cscan.read_ranges, path, '-f')

    def test_unreadable(self):
        missing = self.path('missing')
        for path, part in ((missing, 'No such file'), (self.folder, 'directory')):
            self.assert_refused(['-f', repr(path), part], cscan.read_ranges, path, '-f')

    def test_arithmetic(self):
        """Against sets of numbers, at both ends of the address space and between."""
        rng = random.Random(SEED)
        for base in (0, 1000, ALL - 48):
            window = set(range(base, base + 48))
            for _ in range(150):
                one, two = ([tuple(sorted(rng.sample(range(base, base + 48), 2)))
                             if rng.random() < 0.7 else (rng.randrange(base, base + 48),) * 2
                             for _ in range(rng.randrange(6))] for _ in range(2))
                with self.subTest(seed=SEED, one=one, two=two):
                    self.check_arithmetic(one, two, window)

    def check_arithmetic(self, one, two, window):
        merged = cscan.merge_ranges(one)
        self.assertEqual(members(merged), members(one))
        self.assertTrue(all(low[1] + 1 < high[0] for low, high in zip(merged, merged[1:])))
        self.assertEqual(cscan.count_addresses(merged), len(members(one)))
        inverse = cscan.invert_ranges(merged)
        self.assertEqual(cscan.count_addresses(inverse), ALL - len(members(one)))
        inside = [(max(first, min(window)), min(last, max(window))) for first, last in inverse]
        self.assertEqual(members(inside), window - members(one))
        self.assertEqual(cscan.invert_ranges(inverse), merged)
        left = cscan.subtract_ranges(merged, two)
        self.assertEqual(members(left), members(one) - members(two))
        self.assertTrue(all(low[1] < high[0] for low, high in zip(left, left[1:])))

    def test_whole_space(self):
        whole = [(0, ALL - 1)]
        self.assertEqual(cscan.count_addresses(whole), ALL)
        self.assertEqual(cscan.invert_ranges(whole), [])
        self.assertEqual(cscan.invert_ranges([]), whole)
        self.assertEqual(cscan.merge_ranges([(0, ip('127.255.255.255')),
                                             (ip('128.0.0.0'), ALL - 1)]), whole)
        self.assertEqual(cscan.subtract_ranges(whole, whole), [])
        self.assertEqual(cscan.subtract_ranges(whole, [(5, 5)]), [(0, 4), (6, ALL - 1)])

    def test_portspecs(self):
        for text, ports in PORTSPECS:
            with self.subTest(text=text):
                self.assertEqual(cscan.parse_portspec(text), ports)
        self.assertEqual(len(cscan.parse_portspec('1-65535')), 65535)

    def test_no_portspecs(self):
        for text in NO_PORTSPECS:
            with self.subTest(text=text):
                self.assert_refused([repr(text), '1-65535'], cscan.parse_portspec, text)

    def test_references(self):
        for name, text, spec, csw, csp in REFERENCES:
            with self.subTest(file=name):
                csw, csp = bytes.fromhex(csw), bytes.fromhex(csp)
                ports = cscan.parse_portspec(spec)
                ranges = cscan.parse_range_lines(text.decode().splitlines(), 't')
                self.assertEqual(cscan.pack_csw(ranges, 't'), csw)
                self.assertEqual(cscan.unpack_csw(csw, 't'), ranges)
                self.assertEqual(cscan.read_ranges(self.path('r', csw), '-f'), ranges)
                self.assertEqual(cscan.pack_table(ports, 't'), csp)
                self.assertEqual(cscan.unpack_csp(csp, 't'), ports)

    def test_round_trips(self):
        """Random tables: their header, the sampling rule of formats.md, and back."""
        rng = random.Random(SEED)
        for _ in range(100):
            edges = sorted(rng.sample(range(rng.choice((200, ALL // 2))), 2 * rng.randrange(1, 9)))
            ranges = cscan.merge_ranges(list(zip(edges[::2], edges[1::2])))
            ports = [(rng.randrange(1, 65536), rng.randrange(1, 9)) for _ in ranges]
            with self.subTest(seed=SEED, ranges=ranges, ports=ports):
                for rows, data in ((ranges, cscan.pack_csw(ranges, 't')),
                                   (ports, cscan.pack_table(ports, 't'))):
                    total = sum(count for _, count in ports) if rows is ports else (
                        cscan.count_addresses(ranges))
                    num, top, mask = struct.unpack_from('<III', data)
                    self.assertEqual((num, top, len(data)), (len(rows), total - 1, 12 + 8 * num))
                    self.assertTrue(mask & (mask + 1) == 0 and (mask + 1) // 2 < total <= mask + 1)
                self.assertEqual(cscan.unpack_csw(cscan.pack_csw(ranges, 't'), 't'), ranges)
                self.assertEqual(cscan.unpack_csp(cscan.pack_table(ports, 't'), 't'), ports)

    def test_sampling_rule(self):
        """address = last - (cumulative - r) of the first pair whose second field >= r."""
        ranges = pairs('0.0.0.0-0.0.0.5 0.0.0.40-0.0.0.45 0.0.0.50-0.0.0.54')
        data = cscan.pack_csw(ranges, 't')
        rows = list(struct.iter_unpack('<II', data[12:]))
        drawn = [next(last - (total - r) for last, total in rows if total >= r) for r in range(17)]
        self.assertEqual(drawn, sorted(members(ranges)))

    def test_refused_tables(self):
        for unpack, rows in ((cscan.unpack_csw, NO_CSW), (cscan.unpack_csp, NO_CSP)):
            for name, num, top, mask, words, more in rows:
                with self.subTest(table=unpack.__name__, wrong=name):
                    self.assert_refused(['x.bin: '], unpack, table(num, top, mask, words, more),
                                        'x.bin')

    def test_cut_tables(self):
        for name, _, _, csw, csp in REFERENCES:
            for unpack, data in ((cscan.unpack_csw, bytes.fromhex(csw)),
                                 (cscan.unpack_csp, bytes.fromhex(csp))):
                for size in range(len(data)):
                    with self.subTest(file=name, table=unpack.__name__, size=size):
                        self.assert_refused(['x.bin: '], unpack, data[:size], 'x.bin')

    def test_unpackable(self):
        for rows in ([], [(80, ALL), (81, 1)], [(80, ALL + 1)]):
            with self.subTest(rows=rows):
                self.assert_refused(['x.bin: '], cscan.pack_table, rows, 'x.bin')


# ==== Targets =========================================================================

class Targets(Case):
    """What is probed: each target once or fair draws, never another, in no order."""

    space17 = pairs('0.0.0.0-0.0.0.5 0.0.0.40-0.0.0.45 0.0.0.50-0.0.0.54')

    def test_permutation(self):
        for size in (1, 2, 3, 5, 100, 255, 256, 257, 1000, 65536):
            for seed in (0, 1, SEED):
                with self.subTest(size=size, seed=seed):
                    self.assertEqual(sorted(cscan.permutation(size, seed)), list(range(size)))

    def test_once_all(self):
        """A /16 and 3 ports: a bitmap."""
        seen = bytearray(3 << 16)
        index = {'10.20.%d.%d:%d' % target: at for at, target in enumerate(
            itertools.product(range(256), range(256), (80, 443, 9)))}
        space = cscan.Space(pairs('10.20.0.0-10.20.255.255'), [(80, 5), (443, 1), (9, 1)])
        self.assertEqual((space.addresses, space.size), (1 << 16, 3 << 16))
        for target in space.once(SEED):
            seen[index['%s:%d' % target]] += 1
        self.assertEqual(seen, b'\1' * (3 << 16), 'seed %d' % SEED)

    def test_once_odd(self):
        """Several ranges, sizes that are no powers of two, a port named twice, one target."""
        for ranges, spec in ((self.space17, '1-7'), (self.space17, '80,80:5'),
                             (pairs('1.2.3.4'), '80'), (pairs('1.2.3.4'), '80-82'),
                             (pairs('9.255.255.255-10.0.0.1 255.255.255.255'), '65535,1'),
                             (pairs('10.0.0.0-10.0.0.254'), '80'),
                             (pairs('10.0.0.0-10.0.1.0'), '80')):
            space = cscan.Space(ranges, cscan.parse_portspec(spec))
            ports = {port for port, _ in cscan.parse_portspec(spec)}
            for seed in (0, SEED):
                with self.subTest(ranges=ranges, ports=spec, seed=seed):
                    self.assertEqual(sorted(space.once(seed)),
                                     sorted(itertools.product(hosts_of(ranges), ports)))

    @unittest.skipUnless(tracemalloc, 'PyPy does not count memory')
    def test_memory(self):
        """Neither order nor draws of 2**48 targets are ever held."""
        space = cscan.Space([(0, ALL - 1)], [(port, 1) for port in range(1, 65536)])
        for name, source in (('once', space.once(1)), ('draws', space.draws(1))):
            with self.subTest(order=name):
                tracemalloc.start()
                try:
                    collections.deque(itertools.islice(source, 40000), maxlen=0)
                    self.assertLess(tracemalloc.get_traced_memory()[1], 2e6)
                finally:
                    tracemalloc.stop()

    def test_seeds(self):
        space = cscan.Space(pairs('10.0.0.0-10.0.3.255'), [(80, 1), (443, 1)])

        def some(source):
            return list(itertools.islice(source, 1000))
        for make in (space.once, space.draws):
            with self.subTest(order=make.__name__):
                self.assertEqual(some(make(SEED)), some(make(SEED)))
                self.assertNotEqual(some(make(SEED)), some(make(SEED + 1)))
        self.assertNotEqual(some(space.draws()), some(space.draws()))

    def test_seed_vectors(self):
        self.assertEqual(list(cscan.permutation(1000, 1))[:len(ORDER_1000)], ORDER_1000)
        space = cscan.Space(pairs('10.0.0.0-10.0.0.255 11.0.0.0-11.0.0.9'), [(80, 3), (443, 1)])
        draws = ['%s:%d' % target for target in itertools.islice(space.draws(1), 5)]
        self.assertEqual(draws, DRAWS.split())

    def test_rejection(self):
        """uniform(): masked words, those that are too large thrown away."""
        words = [list(range(16)), [0xfffffff8, 0xffffffff]]
        for total, blocks in ((1, [[0] * 16, [0, 0]]), (2, [[0, 1] * 8, [0, 1]]),
                              (5, [[0, 1, 2, 3, 4] * 2, [0]]), (8, [list(range(8)) * 2, [0, 7]]),
                              (9, [list(range(9)), [8]]), (ALL, words), (ALL - 1, [words[0],
                                                                                   [0xfffffff8]])):
            with self.subTest(total=total):
                self.assertEqual(list(cscan.uniform(total, iter(words))), blocks)

    def check_counts(self, drawn, shares):
        """Each of shares {value: part of all} was drawn that often, within 6 sigma."""
        counts, total = collections.Counter(drawn), len(drawn)
        self.assertEqual(set(counts) - set(shares), set())
        for value, share in shares.items():
            sigma = (total * share * (1 - share)) ** 0.5
            self.assertLess(abs(counts[value] - total * share), 6 * sigma, value)

    def test_draws_are_fair(self):
        """Addresses evenly over ranges of other sizes, ports by weight, both independent."""
        for spec in ('80', '80,443', '80:3,443:1', '80:2,443:2', '80,443,80', '1-5:3,9'):
            ports = cscan.parse_portspec(spec)
            weights = collections.Counter()
            for port, weight in ports:
                weights[port] += weight / sum(weight for _, weight in ports)
            shares = {(host, port): weights[port] / 17
                      for host in hosts_of(self.space17) for port in weights}
            for seed in (1, None):
                with self.subTest(ports=spec, seed=seed):
                    source = cscan.Space(self.space17, ports).draws(seed)
                    self.check_counts(list(itertools.islice(source, 17000)), shares)

    def test_draws_of_everything(self):
        """0.0.0.0/0: all octets come, and evenly; from one address nothing else comes."""
        drawn = list(itertools.islice(cscan.Space([(0, ALL - 1)], [(80, 1)]).draws(1), 25600))
        for place in range(4):
            self.check_counts([int(host.split('.')[place]) for host, _ in drawn],
                              dict.fromkeys(range(256), 1 / 256))
        one = cscan.Space(pairs('1.2.3.4'), [(80, 1)]).draws()
        self.assertEqual(set(itertools.islice(one, 1000)), {('1.2.3.4', 80)})

    def test_no_sequence(self):
        """Neighbours in the order are no neighbours in the space, nor a constant step apart."""
        for size in (60000, 65536, ALL, ALL * 65535):
            for seed in range(1, 5):
                order = list(itertools.islice(cscan.permutation(size, seed), 4096))
                steps = collections.Counter((b - a) % size for a, b in zip(order, order[1:]))
                mean = sum(order) / len(order)
                spread = sum((a - mean) ** 2 for a in order)
                serial = sum((a - mean) * (b - mean) for a, b in zip(order, order[1:])) / spread
                with self.subTest(size=size, seed=seed):
                    self.assertLess(abs(serial), 0.1)
                    self.assertLess(max(steps.values()), 41)        # 1 %
                    self.assertLess(abs(mean / size - 0.5), 0.05)

    def test_specs(self):
        for spec, text in SPECS:
            with self.subTest(spec=spec):
                self.assertEqual(cscan.load_ranges(spec, '-f'), pairs(text))
        csw = bytes.fromhex(REFERENCES[0][3])
        for name, data in (('t.csw', csw), ('t.txt', REFERENCES[0][1]), ('odd', csw)):
            with self.subTest(file=name):
                self.assertEqual(cscan.load_ranges(self.path(name, data), '-f'), self.space17)

    def test_no_specs(self):
        for spec, part in NO_SPECS:
            with self.subTest(spec=spec):
                self.assert_refused(['-xf', part], cscan.load_ranges, spec, '-xf')
        bad = self.path('bad.txt', b'1.2.3.4\nx\n')
        self.assert_refused([bad + ":2: 'x'"], cscan.load_ranges, bad, '-f')
        self.assert_refused(['directory'], cscan.load_ranges, self.folder, '-f')
        cut = self.path('cut.csw', bytes.fromhex(REFERENCES[0][3])[:-1])
        self.assert_refused([cut], cscan.load_ranges, cut, '-f')

    def test_presets(self):
        """presets/NAME.txt = the built-in text; NAME.csw = the original's = made of NAME.txt."""
        names = {os.path.splitext(name)[0] for name in os.listdir(os.path.join(HERE, 'presets'))}
        self.assertEqual(names, set(cscan.PRESETS))
        self.assertEqual(names, set(PRESET_DIGESTS))
        for name, digest in PRESET_DIGESTS.items():
            with self.subTest(preset=name):
                path = os.path.join(HERE, 'presets', name)
                with open(path + '.txt', encoding='ascii') as file:
                    self.assertEqual(file.read(), cscan.PRESETS[name])
                with open(path + '.csw', 'rb') as file:
                    data = file.read()
                self.assertEqual(hashlib.sha256(data).hexdigest(), digest)
                self.assertEqual(cscan.pack_csw(cscan.load_ranges(name, '-f'), 't'), data)
                self.assertEqual(call(compile_targets.main, ['-i', path + '.txt',
                                                             self.path(name)]), (0, '', ''))
                self.assertEqual(self.read(name + '.csw'), data)

    def test_default(self):
        self.assertFalse(cscan.BAKED)
        self.assertEqual(cscan.load_ranges('default', '-f'), cscan.load_ranges('public', '-f'))

    def list_targets(self, args, **options):
        done = run_tool('cscan.py', ['-l'] + args, **options)
        self.assertEqual(done[0], 0, done[2])
        return done[1].split(), done[2]

    def test_excluded(self):
        never = self.path('never.txt', b'10.0.0.64/26\n10.0.0.1\n')
        args = ['-f', '10.0.0.0/24', '-p', '80,443', '-xf', '10.0.0.128/25,10.0.0.3', '-xf', never]
        wanted = {'10.0.0.%d:%d' % pair for pair in itertools.product(range(64), (80, 443))
                  if pair[0] not in (1, 3)}
        once, note = self.list_targets(args + ['--once'])
        self.assertEqual(sorted(once), sorted(wanted))
        self.assertIn('194 of 256', note)
        draws, _ = self.list_targets(args + ['-n', '3000', '--seed', '1'])
        self.assertEqual(set(draws), wanted)
        self.assertEqual(len(draws), 3000)

    def test_standard_input(self):
        text = REFERENCES[0][1]
        for name, data in (('text', text), ('.csw', bytes.fromhex(REFERENCES[0][3]))):
            with self.subTest(input=name):
                listed, _ = self.list_targets(['-f', '-', '-p', '9', '--once'], stdin=data)
                self.assertEqual(sorted(listed),
                                 sorted('%s:9' % host for host in hosts_of(self.space17)))

    def test_nothing_left(self):
        for args, part in ((['-f', '10.0.0.0/24', '-xf', 'private'], 'no addresses'),
                           (['-f', self.path('empty', b'')], 'empty')):
            with self.subTest(args=args):
                done = run_tool('cscan.py', ['-q', '-l'] + args)
                self.assert_stop(done, 1, 'cscan: ', part)

    def test_multicast(self):
        listed, note = self.list_targets(['-f', '223.255.255.254-240.0.0.1', '--once'])
        self.assertEqual(sorted(listed), ['223.255.255.254:80', '223.255.255.255:80',
                                          '240.0.0.0:80', '240.0.0.1:80'])
        self.assertIn('multicast', note)

    def test_heavy_ports(self):
        """Weights that do not fit the 32 bits of a draw: refused, not quietly never drawn."""
        done = run_tool('cscan.py', ['-l', '-n', '1', '-f', '1.2.3.4', '-p', '80:4294967296,443'])
        self.assert_stop(done, 1, 'cscan: ', '-p')

    def test_empty_ports(self):
        """-p "$PORTS" with PORTS unset is a mistake, no wish for port 80."""
        done = run_tool('cscan.py', ['-l', '-n', '1', '-f', '1.2.3.4', '-p', ''])
        self.assert_stop(done, 1, 'cscan: ', "''")

    def test_no_targets(self):
        status, out, err = run_tool('cscan.py', [], cwd=self.folder)
        self.assertEqual((status, out, self.look()), (2, '', {}))
        self.assertIn('-f default', err)

    def test_closed_input(self):
        done = run_tool('cscan.py', ['-l', '-n', '1', '-f', '-'], redirect='<&-')
        self.assert_stop(done, 1, 'cscan: ')

    def test_many_exclusions(self):
        """Linear in the number of ranges: each other one of 60,000 is taken away."""
        ranges = [(16 * i, 16 * i + 7) for i in range(60000)]
        kept = cscan.subtract_ranges(ranges, [(16 * i + 4, 16 * i + 30)
                                              for i in range(0, 60000, 2)])
        self.assertEqual(kept, [(16 * i, 16 * i + 3) for i in range(0, 60000, 2)])


# ==== Compile =========================================================================

class Compile(Case):
    """compile_targets.py as a program, and the copies of cscan.py that it bakes."""

    tool = 'compile_targets.py'

    def run_here(self, args, stdin=b'', **options):
        return run_tool(self.tool, args, stdin, cwd=self.folder, **options)

    def test_references(self):
        for name, text, spec, csw, csp in REFERENCES:
            with self.subTest(file=name):
                self.assertEqual(self.run_here(['-p', spec, name], text), (0, '', ''))
                self.assertEqual(self.read(name + '.csw'), bytes.fromhex(csw))
                self.assertEqual(self.read(name + '.csp'), bytes.fromhex(csp))

    def test_default_name(self):
        self.assertEqual(self.run_here([], b'10.0.0.0/24'), (0, '', ''))
        self.assertEqual(self.look(), {'builtin.csw': bytes.fromhex(REFERENCES[1][3])})

    def test_inputs(self):
        """Several -i of text, .csw and -, overlapping; into a folder; the old file replaced."""
        self.path('a.txt', b'10.0.0.128/25\n10.0.0.0/26')
        self.path('b.csw', cscan.pack_csw(pairs('10.0.0.32-10.0.0.100'), 't'))
        self.path('x.csw', b'old and long' * 99)
        os.mkdir(self.path('sub'))
        inputs = ['-i', 'a.txt', '-i', 'b.csw', '-i', '-']
        for output in ('x', 'sub/x'):
            self.assertEqual(self.run_here(inputs + [output], b'10.0.0.96/27'), (0, '', ''))
            self.assertEqual(self.read(output + '.csw'), bytes.fromhex(REFERENCES[1][3]))
        self.assertEqual(set(self.look()), {'a.txt', 'b.csw', 'x.csw', 'sub/x.csw'})

    def test_inverted(self):
        done = self.run_here(['-b', '--list-ranges'], b'1.0.0.0/8\n0.0.0.0\n')
        self.assertEqual(done, (0, '0.0.0.1-0.255.255.255\n2.0.0.0-255.255.255.255\n', ''))
        self.assertEqual(self.run_here(['-b', 'x'], b'1.0.0.0/8\n0.0.0.0\n'), (0, '', ''))
        self.assertEqual(cscan.unpack_csw(self.read('x.csw'), 'x'),
                         pairs('0.0.0.1-0.255.255.255 2.0.0.0-255.255.255.255'))

    def test_lists(self):
        text = b'10.0.0.1-10.0.0.6\n1.2.3.4\n10.3.0.0/15\n255.255.255.255\n'
        self.assertEqual(self.run_here(['--list'], text), (
            0, '1.2.3.4/32\n10.0.0.1/32\n10.0.0.2/31\n10.0.0.4/31\n10.0.0.6/32\n'
               '10.2.0.0/15\n255.255.255.255/32\n', ''))
        self.assertEqual(self.run_here(['--list-ranges'], text), (
            0, '1.2.3.4\n10.0.0.1-10.0.0.6\n10.2.0.0-10.3.255.255\n255.255.255.255\n', ''))
        self.assertEqual(self.look(), {}, 'they write nothing')

    def test_fewest_blocks(self):
        """Against ipaddress: same blocks, so the same addresses, and as few as can be."""
        rng = random.Random(SEED)
        ranges = [(0, ALL - 1), (0, 0), (ALL - 1, ALL - 1), (0, ALL - 2), (1, ALL - 1),
                  (ALL // 2 - 1, ALL // 2)]
        for bits in list(range(1, 33)) * 6:
            first = rng.randrange(ALL - (1 << bits) + 1)
            ranges.append((first, first + rng.randrange(1 << bits)))
        for first, last in ranges:
            with self.subTest(seed=SEED, first=first, last=last):
                blocks = ipaddress.summarize_address_range(ipaddress.IPv4Address(first),
                                                           ipaddress.IPv4Address(last))
                found = itertools.islice(compile_targets.range_blocks(first, last), 64)
                self.assertEqual(list(found), [str(block) for block in blocks])

    def test_refused(self):
        """One line, and nothing that was there is touched, nothing left behind."""
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        for args, stdin, status, part in NO_COMPILE:
            with self.subTest(args=args):
                for name, data in COMPILE_FILES.items():
                    self.path(name, data)
                with unittest.mock.patch('sys.stdin', io.TextIOWrapper(io.BytesIO(stdin))):
                    done = call(compile_targets.main, args)
                self.assert_stop(done, status, 'compile_targets: ', part)
                self.assertEqual(self.look(), COMPILE_FILES)

    def test_refused_by_program(self):
        for args, status, part in ((['-Z'], 2, '-Z'), (['-i', 'missing'], 1, 'missing')):
            with self.subTest(args=args):
                self.assert_stop(self.run_here(args), status, 'compile_targets: ', part)

    def test_unwritable(self):
        os.makedirs(self.path('x.csw/full'))
        done = self.run_here(['x'], b'1.2.3.4')
        self.assert_stop(done, 1, 'compile_targets: ', 'x.csw')
        self.assertEqual(os.listdir(self.folder), ['x.csw'])

    def test_disk_full(self):
        """The old file stays whole, and no half of the new one is left."""
        self.path('x.csw', b'old')
        with self.file_limit(10):
            done = call(compile_targets.main, ['-i', self.path('r.txt', b'1.2.3.4'),
                                               self.path('x')])
        self.assert_stop(done, 1, 'compile_targets: ', 'x.csw', 'File too large')
        self.assertEqual(self.look(), {'x.csw': b'old', 'r.txt': b'1.2.3.4'})

    def test_output_mode(self):
        """As of any new file: read by others if the umask lets them; the copy can be run."""
        before = os.umask(0o022)
        self.addCleanup(os.umask, before)
        self.run_here(['-c', os.path.join(HERE, 'cscan.py'), 'x'], b'1.2.3.4')
        modes = {name: os.stat(self.path(name)).st_mode & 0o777 for name in self.look()}
        self.assertEqual(modes, {'x.csw': 0o644, 'x.py': 0o755})

    def bake(self, args, text, name='lab', source=os.path.join(HERE, 'cscan.py')):
        self.assertEqual(self.run_here(['-c', source] + args + [name], text), (0, '', ''))
        return self.path(name + '.py')

    def test_baked(self):
        """A copy lists its own targets, and differs from cscan.py in these lines only."""
        copy = self.bake(['-p', '80:2,8080'], REFERENCES[0][1])
        status, out, _ = run_tool(copy, ['-q', '-l', '-n', '1000', '--seed', '1'])
        wanted = {'%s:%d' % pair for pair in itertools.product(
            hosts_of(Targets.space17), (80, 8080))}
        self.assertEqual((status, len(out.split()), set(out.split())), (0, 1000, wanted))
        with open(os.path.join(HERE, 'cscan.py'), encoding='utf-8') as file:
            old = re.split('(?m)^# ---- (?:end of )?built-in targets ----\n', file.read())
        new = re.split('(?m)^# ---- (?:end of )?built-in targets ----\n',
                       self.read('lab.py').decode())
        self.assertEqual((new[0], new[2], len(new)), (old[0], old[2], 3))
        self.assertIn("BUILTIN_MODULES = 'print'\n", new[1])
        self.assertEqual(set(self.look()), {'lab.csw', 'lab.csp', 'lab.py'})

    def test_baked_keeps(self):
        """What is not named stays: ports of the source; a copy can be baked again."""
        first = self.bake(['-p', '443', '--modules', './m.py'], b'1.2.3.4', 'first')
        self.bake([], b'5.6.7.8-5.6.7.9', 'second', first)
        self.assertEqual(set(self.look()), {'first.csw', 'first.csp', 'first.py', 'second.csw',
                                            'second.py'})
        text = self.read('second.py').decode()
        for line in ("BUILTIN_PORTS = '443'", "BUILTIN_MODULES = './m.py'", 'BAKED = True'):
            self.assertIn('\n%s\n' % line, text)
        done = run_tool(self.path('second.py'), ['-q', '-l', '--once', '-mod', 'print'])
        self.assertEqual((done[0], sorted(done[1].split())), (0, ['5.6.7.8:443', '5.6.7.9:443']))

    def test_baked_odd_names(self):
        """Quotes in -p or --modules do not break the copy, nor a second baking."""
        for odd in ("./it's.py", './"mine".py', './it\'s "mine"\\.py'):
            first = self.bake(['--modules', odd], b'1.2.3.4', 'first')
            for copy in (first, self.bake([], b'1.2.3.4', 'second', first)):
                with self.subTest(modules=odd, copy=copy):
                    with open(copy, encoding='utf-8') as file:
                        line = re.search('(?m)^BUILTIN_MODULES = (.*)$', file.read())
                    self.assertEqual(ast.literal_eval(line.group(1)), odd)

    def test_baked_modules(self):
        self.path('mine.py', b'import cscan\n'
                             b'@cscan.module("mine")\n'
                             b'def check(target, out, options):\n'
                             b'    "Say so."\n'
                             b'    out.str("mine %s" % target)\n')
        copy = self.bake(['--modules', './mine.py'], b'1.2.3.4')
        done = run_tool(copy, ['-x'], b'5.6.7.8:80\n', cwd=self.folder)
        self.assertEqual(done[:2], (0, 'module: mine\nmine 5.6.7.8:80\n'), done[2])

    def test_baked_scan(self):
        """Without -f a copy scans its own targets, here one open port of this machine."""
        with socket.socket() as server:
            server.bind(('127.0.0.1', 0))
            server.listen(5)
            port = server.getsockname()[1]
            copy = self.bake(['-p', str(port)], b'127.0.0.1')
            done = run_tool(copy, ['-q', '--once', '-b', '0', '-t', '300'])
        self.assertEqual(done, (0, '127.0.0.1:%d\n' % port, ''))

    def test_streams(self):
        """Standard streams that are closed or full: one line, no traceback."""
        for args, redirect, part in (([], '<&-', ''), (['--list'], '>/dev/full', 'No space'),
                                     (['--list-ranges'], '>/dev/full', 'No space'),
                                     (['--list'], '>&-', '')):
            with self.subTest(args=args, redirect=redirect):
                done = self.run_here(args, b'1.2.3.4', redirect=redirect)
                self.assert_stop(done, 1, 'compile_targets: ', part)
                self.assertEqual(self.look(), {})

    def test_reader_gone(self):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.Popen([sys.executable, os.path.join(HERE, self.tool), '--list'],
                                stdin=subprocess.PIPE, stdout=write, stderr=subprocess.PIPE)
        os.close(write)
        _, err = done.communicate(b'10.0.0.1-10.99.99.99\n', TIMEOUT_S)
        self.assertEqual((done.returncode, err), (0, b''))


# ==== CBA =============================================================================

class Cba(Case):
    """The writer (CbaSink, TextSink, Out) and the reader (CBA, cba_reader.py)."""

    def setUp(self):
        super().setUp()
        self.notes, self.rescued, self.live = [], [], set()

    def sink(self, name='out.cba', data=None):
        """A CbaSink on a file; closed after the test."""
        rescue = cscan.TextSink(self.rescued.extend, self.path('rescue'))
        console = StubConsole()
        console.notes = self.notes
        sink = cscan.CbaSink(self.path(name, data), rescue, console)
        self.addCleanup(self.close, sink)
        self.live.add(sink)
        return sink

    def close(self, sink):
        """Close it and its descriptor, which the end of the program closes otherwise."""
        if sink in self.live:
            self.live.remove(sink)
            mine = os.fstat(sink.fd)
            sink.close()
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(sink.fd), mine):
                    os.close(sink.fd)

    # ---- writing ----

    def test_packets(self):
        """Each call of Out -> its octets in both orders -> the event that is read."""
        for method, args, little, big, _ in WRITES:
            for mark, octets in ((b'L', little), (b'B', big)):
                with self.subTest(call=method, args=args, order=mark):
                    sink = self.sink('p.cba', mark)
                    out = cscan.Out(sink, 7)
                    out.begin('m')
                    getattr(out, method)(*args)
                    self.close(sink)
                    written = self.read('p.cba')
                    self.assertEqual(written, mark + bytes.fromhex('07 00 01 6d 07' + octets))
                    (name, events), = read_cba(written)
                    value = (True if method == 'bit' else
                             args[0].encode('latin-1', 'backslashreplace').decode('latin-1')
                             if method == 'str' else args[0])
                    kind = {'bit': CBA_BIT, 'str': CBA_STR, 'int32': CBA_INT32, 'data': CBA_DATA,
                            'int64': CBA_INT64, 'file': CBA_FILE}[method]
                    code = args[0] if method == 'bit' else (
                        args[1:] or (0,))[0] if method != 'file' else (args[2:] or (0,))[0]
                    self.assertEqual((name, events), ('m', [(kind, code, value)]))

    def test_lines(self):
        """The same calls without an output file -> lines; files below the folder."""
        for method, args, _, _, lines in WRITES:
            with self.subTest(call=method, args=args):
                printed, folder = [], tempfile.mkdtemp(dir=self.folder)
                out = cscan.Out(cscan.TextSink(printed.append, folder), 1)
                out.begin('m')
                getattr(out, method)(*args)
                self.assertEqual(printed, [], 'printed before it is whole')
                out.finish()
                if method == 'file':
                    self.assertEqual(self.look(folder), {args[0]: args[1]})
                    lines = ['saving file ' + os.path.join(folder, args[0])]
                self.assertEqual(printed, [['module: m'] + lines])

    def test_deferred(self):
        """HEAD and later() are kept back until something real follows."""
        printed = []
        sink = self.sink()
        text = cscan.TextSink(printed.extend, self.folder)
        for where in (sink, text):
            out = cscan.Out(where, 1)
            out.begin('nothing')
            out.finish()
            out.begin('only later')
            out.later('never seen')
            out.later('nor this', 5)
            out.finish()
            out.begin('real')
            out.later('first', 4)
            out.bit(6)
            out.bit(7)
            out.finish()
            out.begin('')
            out.later('never')
            out.finish()
        self.close(sink)
        made = Made().head(1, 'real').event(1, CBA_STR, 4, 'first')
        made.event(1, CBA_BIT, 6, True).event(1, CBA_BIT, 7, True)
        self.assertEqual(self.read('out.cba'), made.data)
        self.assertEqual(printed, ['module: real', 'first', 'bit set for code 6',
                                   'bit set for code 7'])

    def test_string_limit(self):
        """32,767 octets of Latin-1, for str and later alike."""
        sink = self.sink()
        out = cscan.Out(sink, 1)
        for say in (out.str, out.later):
            out.begin('m')
            say('x' * 32767)
            out.bit(1)
            for text in ('x' * 32768, '\u20ac' * 5462, 'x' * 70000):
                with self.subTest(call=say.__name__, size=len(text)):
                    with self.assertRaises(ValueError):
                        say(text)
        self.close(sink)
        self.assertEqual([len(events) for _, events in read_cba(self.read('out.cba'))], [2, 2])

    def test_chunks(self):
        """Streams in chunks of at most 32,768 octets; data and files."""
        for size in (0, 1, 32767, 32768, 32769, 65536, 100000):
            with self.subTest(size=size):
                octets = bytes(random.Random(SEED).getrandbits(8) for _ in range(997)) * 101
                octets = octets[:size]
                sink = self.sink('c.cba', b'')
                out = cscan.Out(sink, 3)
                out.begin('m')
                out.data(octets, 1)
                out.file('name', octets)
                self.close(sink)
                made = Made().head(3, 'm')
                for kind, code, name in ((CBA_DATA, 1, None), (CBA_FILE, 0, 'name')):
                    made.begin(3, kind, code, name)
                    for at in range(0, size, 32768):
                        made.chunk(3, octets[at:at + 32768])
                    made.end(3)
                self.assertEqual(self.read('c.cba'), made.data)
                self.assertEqual(read_cba(made.data), made.entries())

    def test_threads(self):
        """Four threads at once: each one's entries come back whole and in order."""
        sink = self.sink()
        wanted = collections.defaultdict(list)

        def work(thread):
            out = cscan.Out(sink, thread)
            for number in range(60):
                octets = bytes([thread]) * (number * 997 % 40000)
                name = 'm%d' % thread
                out.begin(name)
                out.int32(number)
                out.data(octets, 2)
                out.str('end', 3)
                out.finish()
                wanted[name].append([(CBA_INT32, 0, number), (CBA_DATA, 2, octets),
                                     (CBA_STR, 3, 'end')])
                if number % 7 == 0:
                    sink.flush()
        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.close(sink)
        found = collections.defaultdict(list)
        for name, events in read_cba(self.read('out.cba')):
            found[name].append(events)
        self.assertEqual(found, wanted)

    def test_flushed_often(self):
        """By a thread of its own, at least every second, and when much waits."""
        sink = self.sink()
        waits, sizes = [], []

        class Clock:
            def wait(self, timeout):
                waits.append(timeout)
                sizes.append(os.path.getsize(sink.path))
                return len(waits) > 1

            def set(self):
                pass
        sink.closed = Clock()
        out = cscan.Out(sink, 1)
        out.begin('m')
        out.bit(1)
        sink.start()
        sink.flusher.join(TIMEOUT_S)
        self.assertEqual(sizes, [1, 1 + 4 + 6])
        self.assertTrue(all(wait <= 1 for wait in waits), waits)
        out.data(bytes(2 << 20))
        self.assertGreater(os.path.getsize(sink.path), 2 << 20)

    # ---- appending ----

    def test_append_to_cut(self):
        """To a file cut at any octet: what was whole stays, streams are closed, then the new."""
        for order in '<>':
            made = sample(order)
            for at in range(1, len(made.data) + 1):
                with self.subTest(order=order, at=at):
                    self.notes.clear()
                    self.append('cut.cba', made.data[:at])
                    wanted = made.cut(at)
                    repairs = bool(wanted.open_threads()) + (len(wanted.data) < at)
                    for thread in wanted.open_threads():
                        wanted.end(thread)
                    wanted.head(1, 'new').event(1, CBA_INT32, 9, 0x01020304)
                    wanted.begin(1, CBA_DATA, 0).chunk(1, b'zz').end(1)
                    written = self.read('cut.cba')
                    self.assertEqual(written, wanted.data)
                    self.assertEqual(read_cba(written), wanted.entries())
                    self.assertEqual(len(self.notes), repairs, self.notes)

    def append(self, name, data):
        sink = self.sink(name, data)
        out = cscan.Out(sink, 1)
        out.begin('new')
        out.int32(0x01020304, 9)
        out.data(b'zz')
        self.close(sink)

    def test_append_to_empty(self):
        self.append('empty.cba', b'')
        self.assertEqual(self.read('empty.cba')[:5], b'L\1\0\3n')

    def test_append_twice(self):
        """Two runs: one mark, both runs' entries."""
        self.append('twice.cba', None)
        once = self.read('twice.cba')
        self.append('twice.cba', None)
        self.assertEqual(self.read('twice.cba'), once + once[1:])
        self.assertEqual(len(read_cba(self.read('twice.cba'))), 2)
        self.assertEqual(self.notes, [])

    def test_no_append(self):
        """A file that is no CBA file, or is damaged: refused, not an octet changed."""
        for name, data in NO_CBA:
            with self.subTest(file=name):
                path = self.path(name, data)
                self.assert_refused(['-o', repr(path), 'CBA'], self.sink, name)
                self.assertEqual(self.read(name), data)
        done = run_tool('cscan.py', ['-x', '-o', self.path('mine', b'hello\n')], b'1.2.3.4:80\n')
        self.assert_stop(done, 1, 'cscan: ', '-o', 'CBA')
        self.assertEqual(self.read('mine'), b'hello\n')

    def test_unwritable(self):
        os.mkdir(self.path('folder'))
        for path, part in ((self.path('no/such'), 'No such file'),
                           (self.path('folder'), 'directory'), ('/dev/full', 'No space')):
            with self.subTest(path=path):
                self.assert_refused(['-o', repr(path), part], cscan.CbaSink, path, None,
                                    self.notes.append)

    def test_one_writer(self):
        sink = self.sink()
        self.assert_refused(['-o', 'another program'], self.sink)
        out = cscan.Out(sink, 1)
        out.begin('m')
        out.bit(1)
        self.close(sink)
        self.assertEqual(len(self.read('out.cba')), 11)
        self.append('out.cba', None)            # free again

    # ---- failing ----

    def say(self, sink, *texts):
        """An entry each of module m."""
        for text in texts:
            out = cscan.Out(sink, 1)
            out.begin('m')
            out.str(text)
            out.finish()

    def lost(self, *texts):
        return [line for text in texts for line in ('module: m', text)]

    def test_disk_full(self):
        """What was not written whole goes to the rescue sink; the file ends with a packet."""
        sink = self.sink()
        self.say(sink, 'kept')
        sink.flush()
        kept = self.read('out.cba')
        self.say(sink, 'lost' * 50, 'second')
        with self.file_limit(len(kept) + 20):
            sink.flush()                        # writes 20 octets, then EFBIG
        self.assert_line(sink.failed, sink.path, 'File too large')
        self.assertEqual(self.rescued, self.lost('lost' * 50, 'second'))
        self.assertEqual(self.read('out.cba'), kept)
        self.say(sink, 'third')
        self.close(sink)
        self.assertEqual(self.rescued, self.lost('lost' * 50, 'second', 'third'))
        self.assertEqual(self.read('out.cba'), kept)

    def check_vanished(self, vanish):
        sink = self.sink()
        self.say(sink, 'kept')
        sink.flush()
        self.assertEqual((sink.failed, self.rescued), ('', []))
        vanish(sink.path)
        self.say(sink, 'lost')
        sink.flush()
        self.assert_line(sink.failed, sink.path)
        self.say(sink, 'second')
        self.assertEqual(self.rescued, self.lost('lost', 'second'))

    def test_file_deleted(self):
        self.check_vanished(os.unlink)

    def test_file_replaced(self):
        other = self.path('other', b'not ours')
        self.check_vanished(lambda path: os.rename(other, path))
        self.assertEqual(self.read('out.cba'), b'not ours')

    def test_deleted_while_idle(self):
        """Noticed by the next flush, also if nothing is to be written."""
        sink = self.sink()
        os.unlink(sink.path)
        sink.flush()
        self.assert_line(sink.failed, sink.path, 'No such file')

    # ---- reading ----

    def test_original_file(self):
        self.assertEqual(read_cba(CBA_REAL), CBA_REAL_ENTRIES + CBA_REAL_LAST)

    def test_original_kinds(self):
        """The original's test file, put together again; read, and written the same."""
        data = b'{' + bytes(65999) + b'{' + bytes(3)
        stream = b''.join(b'\0' + struct.pack('<H', len(data[at:at + 32768])) + data[at:at + 32768]
                          for at in range(0, len(data), 32768)) + b'\0\0\0'
        first, second = map(bytes.fromhex, CBA_ALL)
        whole = first + stream + second + stream
        self.assertEqual(hashlib.sha256(whole).hexdigest(), CBA_ALL_DIGEST)
        self.assertEqual(read_cba(whole), [
            ('mymod', [(CBA_STR, 0, 'visible'), (CBA_STR, 12, 'loltest loly:55')]),
            ('mymod2', [(CBA_INT32, 0, 455), (CBA_BIT, 555, True), (CBA_DATA, 0, data),
                        (CBA_FILE, 0, 'bigdata.com')])])
        sink = self.sink()
        out = cscan.Out(sink, 0)
        out.begin('mymod')
        out.str('visible')
        out.str('loltest loly:55', 12)
        out.begin('mymod2')
        out.int32(455)
        out.bit(555)
        out.data(data)
        out.file('bigdata.com', data)
        self.close(sink)
        self.assertEqual(self.read('out.cba'), whole)

    def test_orders(self):
        for order in '<>':
            with self.subTest(order=order):
                made = sample(order)
                self.assertEqual(read_cba(made.data), made.entries())

    def test_by_hand(self):
        for name, octets, wanted in CBA_ODD:
            with self.subTest(file=name):
                self.assertEqual(read_cba(bytes.fromhex(octets)), wanted)

    def test_interface(self):
        """The names of formats.md, entries() again, the filter, the dict."""
        self.assertEqual([getattr(cba_reader, 'CBA_' + name) for name in
                          'HEAD STR FILE DATA INT32 INT64 BIT'.split()], list(range(7)))
        made = sample()
        cba = cba_reader.CBA(io.BytesIO(made.data), extract_dir=self.path('no'), extract_for=[],
                             overwrite=False)
        self.assertEqual(as_lists(cba.entries()), made.entries())
        self.assertEqual(as_lists(cba.entries()), made.entries())
        next(cba.entries())                     # left in the middle
        self.assertEqual(as_lists(cba.entries(None)), made.entries())
        for module in ('', 'rfb', 'cscan', 'files', 'none'):
            with self.subTest(module=module):
                self.assertEqual(as_lists(cba.entries(module=module)),
                                 [entry for entry in made.entries() if entry[0] == module])
        for entry in cba.entries():
            self.assertEqual(entry.dict, {code: value for _, code, value in entry.events})
        self.assertEqual(self.look(), {}, 'nothing is extracted unasked')

    def test_cut_reading(self):
        """A file cut at any octet gives every event that is whole, and says if it was cut."""
        for order in '<>':
            made = sample(order)
            ends = {1} | {end for end, _, _, _ in made.steps}
            for at in range(len(made.data) + 1):
                with self.subTest(order=order, at=at):
                    cba = cba_reader.CBA(io.BytesIO(made.data[:at]))
                    wanted = made.cut(at)
                    self.assertEqual(as_lists(cba.entries()), wanted.entries())
                    is_cut = at > 0 and (at not in ends or bool(wanted.open_threads()))
                    self.assertEqual(bool(cba.cut), is_cut, cba.cut)
                    self.assertEqual(as_lists(cba.entries()), wanted.entries())

    def test_cut_program(self):
        """The same by cba_reader.py: exit 0, the results that are whole, one line if cut."""
        made = sample()
        ends = {0, 1} | {end for end, _, _, _ in made.steps}
        for at in range(len(made.data) + 1):
            with self.subTest(at=at):
                status, out, err = call(cba_reader.main, ['-r', self.path('c', made.data[:at])])
                wanted = made.cut(at)
                self.assertEqual((status, out), (0, ''.join(
                    events[0][2] + '\n' for module, events in wanted.entries() if not module)))
                if at in ends and not wanted.open_threads():
                    self.assertEqual(err, '')
                else:
                    self.assert_line(err, 'cba_reader: ', self.path('c'))

    def test_damaged(self):
        """Whatever one octet is changed to, no exception; what is before it is read."""
        rng = random.Random(SEED)
        made = sample()
        for at in range(1, len(made.data)):
            octets = bytearray(made.data)
            octets[at] ^= rng.randrange(1, 256)
            with self.subTest(seed=SEED, at=at, octet=octets[at]):
                found = dict(enumerate(read_cba(bytes(octets))))
                events = [event for entry in found.values() for event in entry[1]]
                before = [event for _, events in made.cut(at).entries() for event in events]
                self.assertEqual([event for event in before if event not in events], [])
                done = call(cba_reader.main, [self.path('d', bytes(octets))])
                self.assertIn(done[0], (0, 1))

    # ---- names that strangers chose ----

    def files(self, *names):
        """A file of entries, one FILE each, whose contents tell them apart."""
        made = Made()
        for number, name in enumerate(names):
            made.head(1, 'm').begin(1, CBA_FILE, 0, name).chunk(1, b'content %d' % number)
            made.end(1).event(1, CBA_BIT, 1, True)
        return made

    def test_names(self):
        """Below the folder, without control characters; by the reader and by -of."""
        os.mkdir(self.path('outer'))
        for name, place in NAMES:
            for tool in ('reader', 'writer'):
                with self.subTest(name=name[:20], tool=tool):
                    folder = os.path.join(tempfile.mkdtemp(dir=self.path('outer')), 'in')
                    if tool == 'reader':
                        found = read_cba(self.files(name).data, folder, ['m'])
                        self.assertEqual(found, self.files(name).entries())
                    else:
                        out = cscan.Out(cscan.TextSink(self.rescued.extend, folder), 1)
                        out.file(name, b'content 0')
                        out.finish()
                    self.assertEqual(self.look(os.path.dirname(folder)),
                                     {'in/' + place: b'content 0'})
        self.assertEqual(os.listdir(self.folder), ['outer'])
        self.assertTrue(all(line.isprintable() for line in self.rescued), self.rescued)

    def test_not_overwritten(self):
        """Old files and files of the same name in the same run stay, unless told otherwise."""
        folder = self.path('in')
        os.makedirs(os.path.join(folder, 'sub'))
        for name in ('a', 'sub/b'):
            self.path('in/' + name, b'old')
        data = self.files('a', 'sub/b', 'a', 'sub', 'c').data
        read_cba(data, folder, '*')
        self.assertEqual(self.look(folder), {
            'a': b'old', 'a.1': b'content 0', 'sub/b': b'old', 'sub/b.1': b'content 1',
            'a.2': b'content 2', 'sub.1': b'content 3', 'c': b'content 4'})

    def test_overwritten(self):
        folder = self.path('in')
        os.mkdir(folder)
        self.path('in/a', b'old and long')
        cba = cba_reader.CBA(io.BytesIO(self.files('a', 'a').data), folder, ['*'], overwrite=True)
        self.assertEqual(len(list(cba.entries())), 2)
        self.assertEqual(self.look(folder), {'a': b'content 0', 'a.1': b'content 1'})
        self.assertEqual((cba.extracted, cba.refused), ({'a', 'a.1'}, []))

    def test_links(self):
        """A link is never followed: of a file, to nowhere, of a folder; overwriting or not."""
        for overwrite in (False, True):
            with self.subTest(overwrite=overwrite):
                top = tempfile.mkdtemp(dir=self.folder)
                folder, outside = os.path.join(top, 'in'), os.path.join(top, 'out')
                for each in (folder, outside):
                    os.mkdir(each)
                with open(os.path.join(outside, 'victim'), 'wb') as file:
                    file.write(b'untouched')
                for name, goal in (('file', 'out/victim'), ('nowhere', 'out/new'), ('sub', 'out')):
                    os.symlink(os.path.join(top, goal), os.path.join(folder, name))
                made = self.files('file', 'nowhere', 'sub/x', 'sub/sub/y', 'sub', 'after')
                cba = cba_reader.CBA(io.BytesIO(made.data), folder, ['m'], overwrite)
                self.assertEqual(as_lists(cba.entries()), made.entries())
                self.assertEqual(self.look(outside), {'victim': b'untouched'})
                self.assertEqual([name for name, _ in cba.refused], ['sub/x', 'sub/sub/y'])
                inside = {name: octets for name, octets in self.look(folder).items()
                          if isinstance(octets, bytes)}
                ending = '' if overwrite else '.1'
                self.assertEqual(inside, {
                    'file' + ending: b'content 0', 'nowhere' + ending: b'content 1',
                    'sub' + ending: b'content 4', 'after': b'content 5'})

    def test_file_in_the_way(self):
        """A file where a folder should be: that FILE is refused and named, the rest goes on."""
        cba = cba_reader.CBA(io.BytesIO(self.files('a', 'a/b', 'c').data), self.path('in'), '*')
        self.assertEqual(len(list(cba.entries())), 3)
        self.assertEqual([name for name, _ in cba.refused], ['a/b'])
        self.assertEqual(set(self.look(self.path('in'))), {'a', 'c'})

    def test_which_are_extracted(self):
        """Only of the modules named; the others' names and all that follows are read."""
        made = Made()
        for module in ('one', 'two', ''):
            made.head(1, module).begin(1, CBA_FILE, 0, 'of ' + module).chunk(1, b'octets').end(1)
            made.event(1, CBA_BIT, 2, True)
        for wanted, names in (([], []), (['one'], ['of one']), (['two', ''], ['of two', 'of ']),
                              (['*'], ['of one', 'of two', 'of ']), (['none'], [])):
            with self.subTest(extract_for=wanted):
                folder = os.path.join(tempfile.mkdtemp(dir=self.folder), 'in')
                self.assertEqual(read_cba(made.data, folder, wanted), made.entries())
                self.assertEqual(set(self.look(folder)), set(names))

    def test_cut_extraction(self):
        data = self.files('whole', 'cut').data
        path = self.path('c.cba', data[:data.rindex(b'content 1') + 7])
        status, out, err = run_tool('cba_reader.py', [path, '--extract', self.path('in')])
        self.assertEqual((status, sorted(out.split())), (0, ['cut', 'whole']))
        self.assertIn('cut: not extracted: cut short', err)
        self.assertIn(path, err)

    # ---- the reader's command line ----

    def set_zone(self, zone):
        """Local time as in this zone, until the test ends."""
        patch = unittest.mock.patch.dict(os.environ, TZ=zone)
        patch.start()
        time.tzset()
        self.addCleanup(time.tzset)
        self.addCleanup(patch.stop)

    def test_program(self):
        """Options -> what stands on stdout, of a file that the original began."""
        made = Made().head(9, 'rfb').event(9, CBA_STR, 0, 'vnc://9.8.7.6:5900')
        made.event(9, CBA_BIT, 6, True).event(9, CBA_BIT, 99, True)
        self.set_zone('UTC')
        path = self.path('s.cba', CBA_REAL + made.data[1:])
        security = ' REASON=Error: Too many security failures\n'
        reasons = ''.join('vnc://10.0.0.%d:5901%s' % (host, security) for host in (111, 113, 117))
        for args, wanted in (
                ([], REAL_STATS + '\n' + REAL_RESULTS),
                (['-s', '-r'], REAL_STATS + '\n' + REAL_RESULTS),
                (['-s'], REAL_STATS), (['-r'], REAL_RESULTS),
                (['--module', 'rfb:WIN'], '9.8.7.6:5900\n'),
                (['--module', 'rfb:win'], '9.8.7.6:5900\n'),
                (['--module', 'rfb:6'], '9.8.7.6:5900\n'),
                (['--module', 'rfb:99'], '9.8.7.6:5900\n'),
                (['--module', 'rfb:0'], '10.0.0.111:5901\n10.0.0.113:5901\n10.0.0.117:5901\n'
                                        '9.8.7.6:5900\n'),
                (['--module', 'x11:GOOD'], '10.0.0.140:6007\n'),
                (['--module', 'rfb:NONE'], None), (['--module', 'none'], ''),
                (['--module', 'rfb'], reasons + 'vnc://9.8.7.6:5900 WIN 99\n'),
                (['--module', ''], REAL_RESULTS)):
            with self.subTest(args=args):
                done = call(cba_reader.main, args + [path])
                if wanted is None:
                    self.assert_stop(done, 1, 'cba_reader: ', "'rfb:NONE'", 'WIN')
                else:
                    self.assertEqual(done[:2], (0, wanted))
                    self.assertEqual(done[2], 'Results:\n' if args in ([], ['-s', '-r']) else '')
        self.assertEqual(run_tool('cba_reader.py', [path]),
                         (0, REAL_STATS + '\n' + REAL_RESULTS, 'Results:\n'))

    def test_program_refuses(self):
        good = self.path('good.cba', CBA_REAL)
        for args, status, part in (
                ([], 2, 'FILE'), (['-Z', good], 2, '-Z'), (['--mod', 'rfb', good], 2, '--mod'),
                (['-r', '--module', 'rfb', good], 2, '--module'),
                (['--overwrite', good], 2, '--extract'), (['--module'], 2, '--module'),
                (['-r', self.path('missing')], 1, "missing': No such file"),
                (['-r', self.folder], 1, 'directory'),
                (['-r', self.path('text', b'hello\n')], 1, 'not a CBA file'),
                (['--module', 'rfb:', good], 1, "'rfb:'"),
                (['--module', 'rfb:-1', good], 1, "'rfb:-1'"),
                (['--module', 'rfb:\u0661', good], 1, 'rfb:')):
            with self.subTest(args=args):
                self.assert_stop(call(cba_reader.main, args), status, 'cba_reader: ', part)
        done = run_tool('cba_reader.py', ['-r', self.path('missing')])
        self.assert_stop(done, 1, 'cba_reader: ', 'missing')

    def test_terminal(self):
        """Strings of strangers do nothing to a terminal: no escapes, one line each."""
        evil = '\x1b[2J\x07\r\n\x9b1m\x7f\xadfake:80'
        made = Made().head(1, '').event(1, CBA_STR, 0, evil)
        made.head(2, 'rfb').event(2, CBA_STR, 0, 'vnc://' + evil).event(2, CBA_STR, 5, evil)
        made.head(0, 'cscan').event(0, CBA_STR, 20, evil)
        made.head(3, evil).begin(3, CBA_FILE, 0, evil).chunk(3, b'x').end(3)
        path = self.path('e.cba', made.data)
        for args, lines in ((['-r'], 1), (['-s'], 2), (['--module', 'rfb'], 1),
                            (['--module', 'rfb:0'], 1), (['--module', 'rfb:5'], 1),
                            (['--extract', self.path('in')], 1)):
            with self.subTest(args=args):
                status, out, err = call(cba_reader.main, args + [path])
                self.assertEqual((status, err, out.count('\n')), (0, '', lines))
                self.assertTrue(all(line.isprintable() for line in out.split('\n')), out)
                self.assertIn('fake:80', out)
        printed = []
        out = cscan.Out(cscan.TextSink(printed.extend, self.path('of')), 1)
        out.str(evil)
        out.file(evil, b'x')
        out.finish()
        self.assertTrue(all(line.isprintable() for line in printed), printed)

    def test_encodings(self):
        """Characters that stdout cannot show are escaped, and no reason to stop."""
        path = self.path('e.cba', Made().head(1, '').event(1, CBA_STR, 0, 'caf\xe9').data)
        for encoding, shown in (('ascii', b'caf\\xe9\n'), ('latin-1', b'caf\xe9\n'),
                                ('utf-8', b'caf\xc3\xa9\n')):
            with self.subTest(encoding=encoding):
                octets = io.BytesIO()
                with contextlib.redirect_stdout(io.TextIOWrapper(octets, encoding)):
                    self.assertEqual(cba_reader.main(['-r', path]), 0)
                    sys.stdout.flush()
                    self.assertEqual(octets.getvalue(), shown)

    def test_strange_stats(self):
        """Nonsense in the scanner's entry ends neither the program nor the results after it."""
        for name, packets in STRANGE:
            with self.subTest(stats=name):
                made = Made().head(0, 'cscan')
                made.data += bytes.fromhex(packets)
                made.head(1, '').event(1, CBA_STR, 0, '1.2.3.4:80')
                status, out, err = call(cba_reader.main, [self.path('s.cba', made.data)])
                self.assertEqual((status, err), (0, 'Results:\n'))
                self.assertEqual(out.split('\n')[-2], '1.2.3.4:80')
                self.assertTrue(all(line.isprintable() for line in out.split('\n')), out)

    def gone(self, args):
        """cba_reader.py whose stdout nobody reads -> (status, stderr)."""
        read, write = os.pipe()
        os.close(read)
        done = subprocess.Popen([sys.executable, os.path.join(HERE, 'cba_reader.py')] + args,
                                stdout=write, stderr=subprocess.PIPE,
                                env={'PYTHONDONTWRITEBYTECODE': '1'})
        os.close(write)
        return done.communicate(timeout=TIMEOUT_S)[1].decode(), done.returncode

    def test_reader_gone(self):
        good = self.path('good.cba', CBA_REAL)
        cut = self.path('cut.cba', CBA_REAL[:400])
        for args in ([good], ['-r', good], ['-r', cut], ['--module', 'rfb', good]):
            with self.subTest(args=args):
                err, status = self.gone(args)
                self.assertEqual((status, err.replace('Results:\n', '')), (0, ''))

    def test_reader_gone_and_error(self):
        """A missing file when nobody reads the results: a line or silence, no traceback."""
        err, status = self.gone(['-r', self.path('good.cba', CBA_REAL), self.path('missing')])
        self.assertIn(status, (0, 1))
        if err:
            self.assert_line(err, 'cba_reader: ')

    def test_stdout_fails(self):
        """Full or closed: one line that does not blame the file read, exit 1."""
        path = self.path('good.cba', CBA_REAL)
        for redirect in ('>/dev/full', '>&-'):
            for args in (['-r', path], ['-s', path]):
                with self.subTest(args=args, redirect=redirect):
                    done = run_tool('cba_reader.py', args, redirect=redirect)
                    self.assert_stop(done, 1, 'cba_reader: ')
                    self.assertNotIn(path, done[2])


# ==== Engine ==========================================================================

FREE_PORT = itertools.count(20000 + os.getpid() % 9000)    # source ports of tests, below ephemeral


class Engine(unittest.TestCase):
    """Connects, answers, deadlines, local errors: against real sockets of this kernel."""

    def setUp(self):
        self.hosts = Hosts(self)
        self.crew, self.console = StubCrew(), StubConsole()

    def engine(self, targets, timeout_s=0.2, window=8, rate=None, syns=1, port=None, **options):
        """An engine over a list of targets, ready for its methods or run()."""
        pace = cscan.Pace(timeout_s, window, rate, syns)
        engine = cscan.Engine(iter([tuple(target) for target in targets]), pace,
                              port=next(FREE_PORT) if port is None else port, **options)
        engine.bind_first(50)
        self.addCleanup(self.close, engine)
        engine.crew, engine.console, engine.sink = self.crew, self.console, StubSink()
        engine.progress = cscan.Progress(self.console, 1 << 40, None, None)
        return engine

    def close(self, engine):
        for sock in engine.socks.values():
            sock.close()
        engine.epoll.close()

    def run_engine(self, targets, **options):
        engine = self.engine(targets, **options)
        engine.run(self.crew, StubSink(), self.console, engine.progress)
        self.assertEqual(engine.attempts, {})
        return engine

    def pass_deadline(self, engine):
        """Make everything under way overdue, without a look at the events."""
        engine.now += engine.pace.timeout_s + 0.001

    def accept_and_reset(self, listener, half_close=False):
        peer, _ = listener.accept()
        if half_close:
            peer.shutdown(socket.SHUT_WR)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
        peer.close()

    def test_tells_apart(self):
        opened = [self.hosts.open() for _ in range(5)]
        closed = [self.hosts.closed() for _ in range(5)]
        silent = [self.hosts.silent() for _ in range(3)]
        for port in (None, 0):
            for window in (1, 3, 100):
                with self.subTest(port=port, window=window):
                    self.crew.results = []
                    targets = opened + silent + closed
                    engine = self.run_engine(targets, port=port, window=window, timeout_s=0.05)
                    self.assertEqual(sorted(self.crew.results), sorted(opened))
                    self.assertEqual(engine.answers, {errno.ECONNREFUSED: 5})
                    self.assertEqual((engine.timeouts, engine.sent), (3, 13))

    def test_result_comes_from_its_target(self):
        """Many targets over few sockets: exactly the open ones, each once."""
        opened = {self.hosts.open('127.0.%d.%d' % (i, i)) for i in range(1, 40)}
        rng = random.Random(SEED)
        targets = list(opened) + [('127.9.%d.%d' % (i >> 8, i & 255), 9) for i in range(3000)]
        rng.shuffle(targets)
        engine = self.run_engine(targets, window=7, timeout_s=2)
        self.assertEqual(sorted(self.crew.results), sorted(opened))
        self.assertEqual(engine.answers, {errno.ECONNREFUSED: 3000})
        self.assertLessEqual(len(engine.socks), 7)

    def test_refused_at_the_deadline(self):
        """shutdown() gives ENOTCONN and the socket is dead: the answer counts, it is replaced."""
        engine = self.engine([self.hosts.closed(), self.hosts.open()], window=1)
        engine.launch(1)
        before = list(engine.socks.values())
        self.pass_deadline(engine)
        self.assertEqual(engine.turn_over(1), 0)
        self.assertEqual(engine.answers, {errno.ECONNREFUSED: 1})
        self.assertNotEqual(list(engine.socks.values()), before)
        self.assertEqual((engine.timeouts, engine.attempts), (0, {}))
        engine.launch(1)
        engine.collect(engine.epoll.poll(1))
        self.assertEqual(len(self.crew.results), 1)

    def test_open_at_the_deadline(self):
        """Established before shutdown(), seen by no event: reported, and of the old target."""
        for credit, after in ((1, 'turn_over with a new target'), (0, 'no new target')):
            with self.subTest(after=after):
                self.crew.results = []
                old, new = self.hosts.open(), self.hosts.silent()
                engine = self.engine([old, new], window=1)
                engine.launch(1)
                self.pass_deadline(engine)
                engine.turn_over(credit)
                self.assertEqual(self.crew.results, [old])
                self.assertEqual((engine.timeouts, engine.attempts), (0, {}))
                engine.launch(1)            # the new target has lost nothing but time
                self.assertEqual(list(engine.attempts.values()), [new])
                self.assertEqual(engine.sent, 2)

    def test_accepted_and_reset_is_open(self):
        """ECONNRESET and EPIPE mean a completed handshake, at an event and at the deadline."""
        for half_close in (False, True):
            for overdue in (False, True):
                with self.subTest(half_close=half_close, overdue=overdue):
                    self.crew.results = []
                    listener = self.hosts.listener()
                    target = listener.getsockname()
                    engine = self.engine([target])
                    engine.launch(1)
                    self.accept_and_reset(listener, half_close)
                    if overdue:
                        self.pass_deadline(engine)
                        engine.turn_over(0)
                    else:
                        engine.collect(engine.epoll.poll(1))
                    self.assertEqual(self.crew.results, [target])
                    self.assertEqual((engine.timeouts, engine.answers), (0, {}))
                    self.assertEqual(len(engine.free), 1)

    def test_socket_connected_to_itself(self):
        engine = self.engine([])
        engine.source = iter([('127.0.0.1', engine.port)])
        for overdue in (False, True):
            with self.subTest(overdue=overdue):
                engine.wait_for(('127.0.0.1', engine.port), 0)
                engine.launch(1)
                if overdue:
                    self.pass_deadline(engine)
                    engine.turn_over(0)
                else:
                    engine.collect(engine.epoll.poll(1))
                self.assertEqual(self.crew.results, [])
                self.assertEqual(engine.selfs, 1 + overdue)

    def test_connected_to_itself_through_any(self):
        """connect() to 0.0.0.0 goes to loopback."""
        engine = self.engine([])
        engine.wait_for(('0.0.0.0', engine.port), 0)
        engine.launch(1)
        engine.collect(engine.epoll.poll(1))
        self.assertEqual((self.crew.results, engine.selfs), ([], 1))

    def test_dead_socket_is_replaced(self):
        """shutdown() of a simultaneous open leaves EINVAL for ever, which is no answer."""
        connect = cscan.CONNECT
        for credit in (0, 1):
            with self.subTest(credit=credit):
                engine = self.engine([self.hosts.silent(), self.hosts.closed()], window=1)
                engine.launch(1)
                dead = next(iter(engine.attempts))
                self.pass_deadline(engine)
                with patched(cscan, CONNECT=lambda sock, to: (
                        errno.EINVAL if sock is dead else connect(sock, to))):
                    engine.turn_over(credit)
                    self.assertNotIn(dead, engine.free)
                    self.assertEqual((engine.answers, engine.timeouts), ({}, 1))
                    engine.launch(1)
                    engine.collect(engine.epoll.poll(1))
                self.assertEqual(engine.answers, {errno.ECONNREFUSED: 1})

    def test_stray_event_of_shutdown(self):
        """shutdown() leaves one HUP behind: it belongs to nobody."""
        engine = self.engine([self.hosts.silent()])
        engine.launch(1)
        self.pass_deadline(engine)
        engine.turn_over(0)
        events = engine.epoll.poll(0)
        self.assertEqual([flags & select.EPOLLHUP for _, flags in events], [select.EPOLLHUP])
        engine.collect(events)
        self.assertEqual((engine.timeouts, engine.answers, self.crew.results), (1, {}, []))

    def test_late_event_of_an_earlier_attempt(self):
        """Events fetched before a descriptor got its next target are not that target's."""
        silent = self.hosts.silent()
        for name, old in (('silent', self.hosts.silent()), ('open', self.hosts.open()),
                          ('refused', self.hosts.closed())):
            with self.subTest(old=name):
                self.crew.results = []
                engine = self.engine([old, silent], window=1)
                engine.launch(1)
                fd = next(iter(engine.attempts)).fileno()
                late = engine.epoll.poll(0.05) or [(fd, select.EPOLLOUT | select.EPOLLHUP)]
                self.pass_deadline(engine)
                engine.turn_over(1)
                engine.launch(1 - len(engine.attempts))
                self.assertEqual(list(engine.attempts.values()), [silent])
                self.assertEqual(next(iter(engine.attempts)).fileno(), fd)
                engine.collect(late)        # forced: the old attempt's event comes now
                self.assertEqual(list(engine.attempts.values()), [silent])
                self.assertEqual(self.crew.results, [old] if name == 'open' else [])

    def test_local_errors_lose_nothing(self):
        """The target waits and is tried again, the error is counted, the window shrinks, grows."""
        targets = [self.hosts.open() for _ in range(6)]
        for code in sorted(cscan.LOCAL):
            with self.subTest(errno.errorcode[code]):
                self.crew.results = []
                left = iter([code] * 4)
                connect = cscan.CONNECT
                with patched(cscan, CONNECT=lambda sock, to: next(left, None) or connect(sock, to),
                             LOCAL_WAIT_S=0.01, TICK_S=0.01, LOCAL_HOLD_S=0.01):
                    engine = self.engine(targets)
                    engine.launch(3)
                    self.assertEqual(engine.locals, {code: 3})
                    self.assertLess(engine.window, engine.pace.window)
                    self.assertEqual(engine.credit(), 0)
                    engine.run(self.crew, StubSink(), self.console, engine.progress)
                self.assertEqual(sorted(self.crew.results), sorted(targets))
                self.assertEqual((engine.locals, engine.sent), ({code: 4}, 6))
                self.assertTrue([n for n in self.console.notes if errno.errorcode[code] in n])
                engine.now = engine.shrunk + 2
                for _ in range(20):
                    engine.tick()
                self.assertEqual(engine.window, engine.pace.window)

    def test_no_descriptors(self):
        """socket() says EMFILE: fewer sockets do the work."""
        targets = [self.hosts.open() for _ in range(6)]
        engine = self.engine(targets)
        new_socket = engine.new_socket

        def few():
            if len(engine.socks) >= 2:
                raise OSError(errno.EMFILE, 'Too many open files')
            new_socket()
        engine.new_socket = few
        engine.run(self.crew, StubSink(), self.console, engine.progress)
        self.assertEqual(sorted(self.crew.results), sorted(targets))
        self.assertGreater(engine.locals[errno.EMFILE], 0)

    def test_local_error_for_ever(self):
        """The rest is done first; then the scan ends and says what to change."""
        good, bad = [self.hosts.open() for _ in range(4)], ('127.0.0.9', 9)
        connect = cscan.CONNECT
        with patched(cscan, GIVE_UP_S={True: 0.3, False: 0.3},
                     CONNECT=lambda s, to: errno.EPERM if to == bad else connect(s, to)):
            engine = self.run_engine([bad] + good)
        self.assertEqual(sorted(self.crew.results), sorted(good))
        self.assertIn('EPERM', engine.error)
        self.assertIn('firewall', engine.error)
        self.assertEqual([entry[2] for entry in engine.waiting], [bad])

    def test_local_errors_of_many_targets(self):
        """Half of the targets can never be sent: the other half is, and soon."""
        targets = [('127.7.%d.%d' % (i >> 8, i & 255), 9) for i in range(512)]
        bad = set(random.Random(SEED).sample(targets, 256))
        connect = cscan.CONNECT
        with patched(cscan, GIVE_UP_S={True: 0.3, False: 0.3},
                     CONNECT=lambda s, to: errno.EPERM if to in bad else connect(s, to)):
            engine = self.run_engine(targets, window=400, once=True)
        self.assertEqual(engine.answers, {errno.ECONNREFUSED: 256})
        self.assertEqual({entry[2] for entry in engine.waiting}, bad)
        self.assertEqual(engine.parked, 256)

    def test_too_many_waiting(self):
        with patched(cscan, PARKED_MAX=50, CONNECT=lambda s, to: errno.EPERM):
            engine = self.run_engine([('127.0.0.1', port) for port in range(1, 1000)], window=800)
        self.assertRegex(engine.error, '^[0-9]+ targets wait: EPERM')

    def test_clash(self):
        """Source port and target in use: --once tries again, draws take another; same window."""
        target, other = self.hosts.silent(), self.hosts.open()
        for once in (True, False):
            with self.subTest(once=once), patched(cscan, CLASH_WAIT_S=0.05):
                self.crew.results = []
                engine = self.run_engine([target, target, other], once=once, timeout_s=0.1,
                                         quota=2 if not once else None)
                self.assertGreater(engine.clashes, 0)
                self.assertEqual(engine.sent, 3 if once else 2)
                self.assertEqual(engine.timeouts, 2 if once else 1)
                self.assertEqual(self.crew.results, [other])
                self.assertEqual((engine.locals, engine.window), ({}, 8))

    def test_answers_of_the_net(self):
        """Counted by kind, whether connect() gives them at once or later; no local errors."""
        connect = cscan.CONNECT
        for code in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.ECONNREFUSED):
            with self.subTest(errno.errorcode[code]):
                with patched(cscan, CONNECT=lambda s, to: code):
                    engine = self.run_engine([('127.0.0.1', 9)] * 3)
                self.assertEqual((engine.answers, engine.locals), ({code: 3}, {}))
        with patched(cscan, CONNECT=lambda s, to: errno.ETIMEDOUT):
            self.assertEqual(self.run_engine([('127.0.0.1', 9)] * 3).answers, {errno.ETIMEDOUT: 3})
        engine = self.engine([self.hosts.silent()])     # later: as if the kernel gave up
        engine.launch(1)
        fd = next(iter(engine.attempts)).fileno()
        with patched(cscan, CONNECT=lambda s, to: errno.EHOSTUNREACH):
            engine.collect([(fd, select.EPOLLERR | select.EPOLLHUP)])
        self.assertEqual((engine.answers, engine.attempts), ({errno.EHOSTUNREACH: 1}, {}))
        self.assertIs(cscan.CONNECT, connect)

    def test_every_timeout_is_counted(self):
        """Also where one connect() of the same batch fails at once."""
        connect = cscan.CONNECT
        silent = [self.hosts.silent() for _ in range(4)]
        with patched(cscan, CONNECT=lambda s, to: (
                errno.ENETUNREACH if to[0] == '127.0.0.99' else connect(s, to))):
            targets = [silent[0], silent[1], ('127.0.0.99', 1), silent[2], ('127.0.0.99', 2),
                       silent[3]]
            engine = self.run_engine(targets, window=2, timeout_s=0.05)
        self.assertEqual((engine.timeouts, engine.answers), (4, {errno.ENETUNREACH: 2}))

    def test_retries(self):
        """A silent target is tried N times more, spaced; an answer ends that."""
        times = []
        connect = cscan.CONNECT

        def note(sock, to):
            if to == silent:
                times.append(time.monotonic())
            return connect(sock, to)
        silent, closed = self.hosts.silent(), self.hosts.closed()
        engine = self.engine([silent, closed], timeout_s=0.02, retries=2)
        wait_for = engine.wait_for
        spaces = []
        engine.wait_for = lambda to, s: (spaces.append(s), wait_for(to, s / 50))
        with patched(cscan, CONNECT=note):
            engine.run(self.crew, StubSink(), self.console, engine.progress)
        self.assertEqual((len(times), engine.repeats, engine.timeouts), (3, 2, 1))
        self.assertEqual(spaces, [1.0, 2.0])
        self.assertEqual(engine.answers, {errno.ECONNREFUSED: 1})
        self.assertEqual(engine.tries, {})

    def test_modules_behind(self):
        """A full queue: nothing is sent, answers are collected, no deadline is charged."""
        opened, silent = self.hosts.open(), self.hosts.silent()
        engine = self.engine([silent, opened, opened], timeout_s=0.1, window=2)
        engine.clock()
        engine.launch(2)
        self.crew.held = True
        end = time.monotonic() + 0.3
        while time.monotonic() < end:       # the loop of run(), for thrice the timeout
            engine.collect(engine.events())
            engine.clock()
            self.assertEqual(engine.credit(), 0)
            engine.turn_over(0)
        self.assertEqual(self.crew.results, [opened])
        self.assertEqual((list(engine.attempts.values()), engine.sent), ([silent], 2))
        self.crew.held = False
        engine.run(self.crew, StubSink(), self.console, engine.progress)
        self.assertEqual((self.crew.results, engine.timeouts), ([opened, opened], 1))

    def test_quota(self):
        """-n: exactly so many are sent, then the scan ends."""
        targets = [('127.0.1.%d' % i, 9) for i in range(200)]
        for quota in (1, 8, 9, 200, 300):
            with self.subTest(quota=quota):
                self.assertEqual(self.run_engine(targets, quota=quota).sent, min(quota, 200))

    def test_runtime(self):
        engine = self.run_engine([('127.0.0.1', 9)] * 10**6, runtime=0.2, rate=1000.0)
        self.assertEqual(engine.stopping, '--max-runtime')
        self.assertLess(engine.sent, 1000)

    def test_conntrack_full(self):
        """Drops: said once, slower, and what was in flight is sent again, not called silent."""
        silent = [self.hosts.silent() for _ in range(3)]
        engine = self.engine(silent, timeout_s=0.3, rate=1000.0)
        drops = iter([0, 7])
        engine.conntrack = cscan.Conntrack()
        engine.conntrack.look = lambda: next(drops, 0)
        engine.conntrack.count = engine.conntrack.limit = 99
        engine.conntrack.carries = lambda: 600.0
        with patched(cscan, LOCAL_WAIT_S=0.05):
            engine.run(self.crew, StubSink(), self.console, engine.progress)
        self.assertEqual((engine.lost, engine.sent, engine.timeouts), (3, 6, 3))
        self.assertEqual(len([n for n in self.console.notes if 'conntrack table full' in n]), 1)
        self.assertEqual(engine.bucket.rate, 500)       # halved, and no room since

    def test_conntrack_full_without_ceiling(self):
        """-ct 0: what was sent before there was a rate is no debt."""
        engine = self.engine([('127.0.0.1', 9)] * 3000, rate=None, window=100)
        drops = iter([0, 0, 9])
        engine.conntrack.look = lambda: next(drops, 0)
        engine.conntrack.carries = lambda: 3000.0
        engine.conntrack.has_room = lambda: False
        engine.launch(100)
        engine.sent = 10**6
        for _ in range(3):
            engine.tick()
        self.assertEqual(engine.bucket.rate, 3000)
        self.assertEqual(engine.bucket.credit(engine.now + 0.01), 30)

    def test_conntrack_files(self):
        """The drop column is found by its name, hex, all processors; missing files are no news."""
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        paths = {}
        for name, text in (('STAT', 'entries drop new\n10 0000000a 1\n10 00000001 1\n'),
                           ('COUNT', '100\n'), ('LIMIT', '100\n')):
            paths[name] = os.path.join(folder, name)
            with open(paths[name], 'w') as file:
                file.write(text)
        with patched(cscan.Conntrack, **paths):
            watch = cscan.Conntrack()
            self.assertEqual(watch.look(), 0)
            with open(paths['STAT'], 'w') as file:
                file.write('entries drop new\n10 0000000f 1\n10 00000011 1\n')
            self.assertEqual((watch.look(), watch.look()), (21, 0))
            os.unlink(paths['STAT'])
            self.assertEqual(watch.look(), 0)

    def test_forgets_stale_pairs(self):
        """Answered attempts do not fill the memory until their deadline."""
        engine = self.engine([])
        sock = engine.take(1)[0]
        live = ('127.0.0.1', 1)
        engine.attempts[sock] = live
        for _ in range(400):
            engine.cohorts.append((1e9, [sock] * 256, [('127.0.0.1', 9)] * 256, 0))
        engine.cohorts.append((1e9, [sock], [live], 0))
        engine.tick()
        self.assertEqual([cohort[2] for cohort in engine.cohorts], [[live]])

    def test_source_port_taken(self):
        """One of the next -bt ports is used; with none left, one line says so."""
        taken = self.hosts.listener('0.0.0.0').getsockname()[1]
        engine = self.engine([self.hosts.closed()], port=taken)
        self.assertNotEqual(engine.port, taken)
        with self.assertRaisesRegex(cscan.UserError,
                                    'argument -b: ports %d to %d' % (taken, taken)):
            cscan.Engine(iter([]), engine.pace, port=taken).bind_first(0)

    def test_canary(self):
        """Timed out and refused are told apart, open is silent, none is a result."""
        for state, address in (('open', self.hosts.open()), ('not open', self.hosts.closed()),
                               ('timed out', self.hosts.silent())):
            with self.subTest(state=state):
                self.console.notes = []
                canary = cscan.Canary(*address, after=2, source='')
                engine = self.run_engine([('127.0.0.1', 9)] * 5, canary=canary)
                self.assertEqual((canary.state, self.crew.results), (state, []))
                told = [note for note in self.console.notes if 'canary' in note]
                self.assertEqual(told, [] if state == 'open' else
                                 ['canary %s:%d: %s' % (address + (state,))])
                self.assertEqual(engine.sent, 5)


class Pace(unittest.TestCase):
    """The arithmetic of rates, and the bucket that keeps them."""

    # -r, -t, -m, -a, -ct -> window, rate, SYNs (tcp_syn_linear_timeouts 4)
    PLANS = [
        ((520, 800, None, 90, None), (416, 520.0, 1)),
        ((520, 800, 1000, 90, None), (1000, 1250.0, 1)),
        ((520, 800, 10, 90, None), (10, 12.5, 1)),
        ((1, 800, None, 90, None), (1, 1.0, 1)),
        ((0.5, 800, None, 90, None), (1, 0.5, 1)),
        ((520, 801, None, 90, None), (417, 520.0, 1)),
        ((520, 800, None, 200, None), (416, 260.0, 1)),
        ((520, 800, None, 90, 0), (416, None, 1)),
        ((520, 800, None, 90, 100), (416, 10000.0, 1)),
        ((520, 1000, None, 90, None), (520, 520.0, 1)),
        ((520, 1001, None, 90, None), (521, 520.0, 2)),
        ((520, 3000, None, 90, None), (1560, 520.0, 3)),
        ((520, 60000, None, 90, None), (31200, 520.0, 6)),
    ]

    def test_plans(self):
        for (rate, timeout, pending, percent, interval), expected in self.PLANS:
            with self.subTest(r=rate, t=timeout, m=pending, a=percent, ct=interval):
                pace = cscan.plan_pace(rate, timeout, pending, percent, interval, 4)
                self.assertEqual((pace.window, pace.rate, pace.syns), expected)
                self.assertEqual(pace.timeout_s,        # before the kernel repeats the SYN
                                 timeout / 1000 - (0.01 if timeout % 1000 == 0 else 0))

    def test_syns(self):
        """Kernels before 6.5 double the interval: one repeat in 3 s."""
        for timeout, linear, count in ((800, 0, 1), (1000, 0, 1), (2999, 0, 2), (9000, 0, 2),
                                       (3000, 4, 3), (3001, 4, 4)):
            with self.subTest(timeout=timeout, linear=linear):
                self.assertEqual(cscan.syns_per_connect(timeout, linear), count)

    def test_bucket(self):
        """No second has more SYNs than the rate and one burst, whatever the naps."""
        for trial in range(60):
            rng = random.Random(SEED + trial)
            rate, cost = rng.choice([0.5, 7, 100, 520, 5000.0]), rng.choice([1, 1, 3])
            now, sent = 0.0, []
            bucket = cscan.Bucket(rate, cost, now)
            while now < 8:
                count = min(bucket.credit(now), rng.choice([0, 1, 50, 10**6]))
                bucket.spend(count)
                if count:
                    sent.append((now, count * cost))
                now += rng.choice([rng.random() / rate, 0.0001, 0.01, 0.06, rng.random() * 2])
            most = rate + max(cost, rate / 20) + 1e-6
            window, total = collections.deque(), 0
            for when, syns in sent:
                window.append((when, syns))
                total += syns
                while window[0][0] <= when - 1:
                    total -= window.popleft()[1]
                self.assertLessEqual(total, most, 'SEED=%d rate %g' % (SEED, rate))

    def test_bucket_reaches_the_rate(self):
        bucket, now, sent = cscan.Bucket(520.0, 1, 0.0), 0.0, 0
        while now < 10:
            count = bucket.credit(now)
            bucket.spend(count)
            sent += count
            now += max(0.001, bucket.wait(now))
        self.assertAlmostEqual(sent, 5200, delta=30)

    def test_rate_instead_of_none(self):
        bucket = cscan.Bucket(None, 1, 0.0)
        bucket.spend(10**9)
        bucket.set_rate(100.0, 5.0)
        self.assertEqual((bucket.credit(5.0), bucket.credit(5.04)), (0, 4))

    def test_limits(self):
        """The window is made to fit, and a line says what to change."""
        limits = cscan.Limits(1024, 262144, 120, 100000, (32768, 60999), 4, 20)
        pace = cscan.Pace(0.8, 5000, 6250.0, 1)
        rows = [
            (pace, limits, 1000, 748, 'ulimit -n'),
            (pace, limits, 0, 1004, 'ulimit -n'),
            (pace._replace(window=416), limits, 1000, 416, None),
            (pace._replace(window=416), limits._replace(max_open_files=64), 1000, 28, 'ulimit -n'),
            (pace, limits._replace(max_open_files=10**6, max_user_watches=300), 1000, 300,
             'fs.epoll.max_user_watches'),
        ]
        for pace, limits, reserve, window, word in rows:
            with self.subTest(window=window):
                notes = []
                self.assertEqual(cscan.fit_pace(pace, limits, reserve, notes.append).window,
                                 window)
                self.assertEqual(len(notes), 1 if word else 0)
                self.assertIn(word or '', ''.join(notes))

    def test_warnings(self):
        limits = cscan.Limits(1024, 12000, 120, 100000, (32768, 60999), 4, 20)
        pace = cscan.Pace(0.8, 416, 520.0, 1)
        rows = [    # pace, source port, pairs, total, once -> word of the warning
            (pace, 32005, 10**9, None, False, 'carries 100/s'),
            (pace, 32005, 10**9, 10000, False, None),
            (pace._replace(rate=90.0), 32005, 10**9, None, False, None),
            (pace._replace(window=30000, rate=90.0), 0, 1, None, False, 'ip_local_port_range'),
            (pace._replace(window=30000, rate=90.0), 0, 2, None, False, None),
            (pace._replace(window=30000, rate=90.0), 0, 1, None, True, None),
        ]
        for pace, port, pairs, total, once, word in rows:
            with self.subTest(word=word, pairs=pairs):
                notes = []
                cscan.warn_pace(pace, limits, port, pairs, total, once, notes.append)
                self.assertEqual(len(notes), 1 if word else 0)
                self.assertIn(word or '', ''.join(notes))


# ==== Cli =============================================================================

def start(name, *args, **keywords):
    """Start one of our files -> Popen with pipes."""
    keywords.setdefault('stdout', subprocess.PIPE)
    return subprocess.Popen(tool(name, *args), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                            **keywords)


def low_descriptors():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def read_text(path):
    with open(path) as file:
        return file.read()


def cba_entries(path, module=''):
    with open(path, 'rb') as file:
        return list(cba_reader.CBA(file).entries(module))


class Cli(Case):
    """The scanner as its users meet it: options, streams, signals, exit status."""

    def setUp(self):
        super().setUp()
        self.hosts = Hosts(self)
        self.base = ['-b', next(FREE_PORT), '-bt', 50]

    def scan(self, *args, **keywords):
        """cscan.py with a source port of its own, quiet."""
        return run('cscan.py', '-q', *self.base, *args, **keywords)

    def lines(self, *args, **keywords):
        """Sorted lines of a scan that must end well without a word."""
        status, out, err = self.scan(*args, **keywords)
        self.assertEqual((status, err), (0, ''))
        return sorted(out.split())

    # name, arguments, status, what the one line must have
    MISTAKES = [
        ('no such file', ['-f', 'foo'], 1, "-f: 'foo': neither a file nor ranges"),
        ('length', ['-f', '10.0.0.0/33'], 1, "'10.0.0.0/33': the length is 0 to 32"),
        ('octet', ['-f', '10.0.0.300'], 1, "'10.0.0.300': not an address"),
        ('folder', ['-f', '/'], 1, "-f: '/': Is a directory"),
        ('no targets', ['-f', '/dev/null'], 1, "-f: '/dev/null': no ranges"),
        ('multicast only', ['-q', '-f', '224.0.0.0/8'], 1, 'no addresses are left'),
        ('all excluded', ['-q', '-f', '127.0.0.1', '-xf', '127.0.0.0/8'], 1,
         'no addresses are left'),
        ('exclude list missing', ['-f', '127.0.0.1', '-xf', 'gone.txt'], 1, "-xf: 'gone.txt'"),
        ('port 0', ['-f', '127.0.0.1', '-p', '0'], 1, "-p: '0'"),
        ('weight 0', ['-f', '127.0.0.1', '-p', '80:0'], 1, "-p: '80:0'"),
        ('no csp', ['-f', '127.0.0.1', '-pf', os.path.join(HERE, 'LICENSE')], 1,
         'no .csw or .csp'),
        ('p and pf', ['-f', '127.0.0.1', '-p', '1', '-pf', 'x'], 2, '-p 1 and -pf x: one of them'),
        ('rate', ['-f', '127.0.0.1', '-r', 'fast'], 2, "-r: 'fast': a number"),
        ('rate 0', ['-f', '127.0.0.1', '-r', '0'], 2, "-r: '0': a number from"),
        ('nan', ['-f', '127.0.0.1', '-r', 'nan'], 2, "-r: 'nan': a number from"),
        ('source port', ['-f', '127.0.0.1', '-b', '70000'], 2, "-b: '70000'"),
        ('source address', ['-f', '127.0.0.1', '-bi', '1.2.3'], 2, "-bi: '1.2.3'"),
        ('not ours', ['-f', '127.0.0.1', '-bi', '192.0.2.1'], 1, 'source 192.0.2.1'),
        ('positional', ['127.0.0.1'], 2,
         "'127.0.0.1': belongs to no option; targets are named with -f"),
        ('abbreviated', ['-f', '127.0.0.1', '--onc'], 2, "'--onc': no such option"),
        ('argument missing', ['-f'], 2, '-f: expected one argument'),
        ('l and x', ['-l', '-x'], 2, '-l and -x: one of them'),
        ('rate infinite', ['-f', '127.0.0.1', '-r', 'inf'], 2, "-r: 'inf': a number from"),
        ('timeout', ['-f', '127.0.0.1', '-t', '1e300'], 2, "-t: '1e300': a number from 1 to 3600"),
        ('too many', ['-l', '-n', '9' * 20], 2, "'99999999999999999999': a whole number"),
        ('x and f', ['-x', '-f', '127.0.0.1'], 2, '-x: -f goes with a scan only'),
        ('l and runtime', ['-l', '--max-runtime', '1'], 2, '-l: --max-runtime goes with a scan'),
        ('daemon', ['-f', '127.0.0.1', '-d'], 2, '-d: the results would be lost'),
        ('stdin twice', ['-f', '-', '-xf', '-'], 2, 'standard input can be read once'),
        ('no module', ['-f', '127.0.0.1', '-mod', 'nope'], 1, "module 'nope': not one of print"),
        ('no module file', ['-f', '127.0.0.1', '-mod', './nope.py'], 1,
         "'./nope.py': No such file"),
        ('setting', ['-f', '127.0.0.1', '-mcfg', 'x'], 1, "-mcfg: 'x': module.option=value"),
        ('setting unknown', ['-f', '127.0.0.1', '-mcfg', 'print.x=1'], 1,
         'module print has no options'),
        ('output folder', ['-f', '127.0.0.1', '-o', '/nonexistent/x'], 1,
         "-o: '/nonexistent/x': No such"),
        ('output no CBA', ['-f', '127.0.0.1', '-o', 'TEXT'], 1, 'not a CBA file'),
        ('log', ['-f', '127.0.0.1', '--log', '/nonexistent/x'], 1,
         "--log: '/nonexistent/x': No such"),
    ]

    def test_mistakes(self):
        """One line that names the value and what was expected, no traceback, nothing started."""
        rows = list(self.MISTAKES)
        text = self.path('text', b'words')
        processes = [start('cscan.py', *[text if arg == 'TEXT' else arg for arg in args])
                     for _, args, _, _ in rows]             # side by side: faster
        for (name, _, expected, words), process in zip(rows, processes):
            out, err = (text.decode() for text in process.communicate(timeout=60))
            with self.subTest(name):
                status = process.returncode
                err = '\n'.join(line for line in err.splitlines() if 'sockets' not in line)
                self.assertEqual((status, out, err.count('\n')), (expected, '', 0), err)
                self.assertIn(words, err)
                self.assertRegex(err, '^cscan: ')

    def test_failed_start_leaves_no_trace(self):
        old = self.path('old.cba', b'L\0\0\0\0\1\3\0ab')     # cut short: a start would repair it
        for args in (['-bi', '192.0.2.1'], ['-p', '0'], ['-mod', 'nope'], ['--log', '/']):
            run('cscan.py', '-f', '127.0.0.1', '-o', old, *args)
            run('cscan.py', '-f', '127.0.0.1', '-o', self.path('new.cba'), *args)
        with open(old, 'rb') as file:
            self.assertEqual(file.read(), b'L\0\0\0\0\1\3\0ab')
        self.assertEqual(os.listdir(self.folder), ['old.cba'])

    def test_no_targets_no_packet(self):
        """Without -f: what the built-in targets are, how to scan them, status 2; no packet."""
        with open('/proc/net/snmp') as file:
            before = re.findall(r'^Tcp: .*', file.read(), re.M)[1].split()[5]
        status, out, err = run('cscan.py', '-p', '22', '-r', '1000')
        with open('/proc/net/snmp') as file:
            after = re.findall(r'^Tcp: .*', file.read(), re.M)[1].split()[5]
        self.assertEqual((status, out), (2, ''))
        self.assertIn('3358325504 addresses, port 22', err)
        self.assertRegex(err, r'cscan\.py -p 22 -r 1000 -f default\n$')
        self.assertLess(int(after) - int(before), 50)       # ActiveOpens of the whole machine

    def test_everything_open_is_found(self):
        """65,536 addresses x 2 ports, seven open: exactly those; also with 64 descriptors."""
        a, b = self.hosts.open()[1], self.hosts.open('127.0.77.9')[1]
        expected = {'127.0.0.1:%d' % a, '127.0.77.9:%d' % b}
        for host, port in (('127.0.0.0', a), ('127.0.255.255', b), ('127.0.3.4', a),
                           ('127.0.128.0', b), ('127.0.200.200', a)):
            self.hosts.open(host, port)
            expected.add('%s:%d' % (host, port))
        args = ['-f', '127.0.0.0/16', '-p', '%d,%d' % (a, b), '--once', '-ct', 0]
        self.assertEqual(self.lines(*args), sorted(expected))
        status, out, err = self.scan(*args, preexec_fn=low_descriptors)
        self.assertEqual((status, sorted(out.split())), (0, sorted(expected)))
        self.assertIn('64 descriptors', err)

    def test_orders(self):
        """-l: --once is each pair once, --seed repeats, -n ends, what -xf names is never there."""
        once = self.lines('-l', '-f', '10.1.0.0/24', '-p', '1-3', '--once')
        self.assertEqual(once, sorted('10.1.0.%d:%d' % pair for pair in itertools.product(
            range(256), (1, 2, 3))))
        args = ['-l', '-f', '10.0.0.0/8', '-xf', '10.0.0.0/9', '-n', 500, '-p', '80:2,8000-8003']
        _, first, _ = self.scan(*args, '--seed', 7)
        self.assertEqual(self.scan(*args, '--seed', 7)[1], first)
        self.assertNotEqual(self.scan(*args, '--seed', 8)[1], first)
        self.assertEqual(len(first.split()), 500)
        self.assertFalse([line for line in first.split() if int(line.split('.')[1]) < 128])
        self.assertEqual(len(self.lines('-l', '-f', 'private', '--once', '-n', 77)), 77)
        self.assertEqual(len(self.lines('-l', '-n', 5)), 5)         # the built-in targets

    def test_notes(self):
        _, _, err = run('cscan.py', '-l', '-n', 1, '-f', 'public-all', '-p', '80:2,81', '--once')
        self.assertIn('268435456 multicast addresses skipped', err)
        self.assertIn('weights of ports do not apply', err)
        target = '%s:%d' % self.hosts.open()
        _, _, err = run('cscan.py', '-f', '127.0.0.1', '-p', target[10:], '--once', '-t', 3000,
                        '-c', '127.0.0.1', *self.base)
        self.assertIn('up to 3 SYNs a target', err)
        self.assertIn('the canary is due after 5600 packets (-ca), the scan has 1', err)
        self.assertRegex(err, r'1 socket, 3000 ms timeout, 520 packets/s, 31200 bytes/s')
        self.assertRegex(err, r'1 packet in [0-9.]+ s: 1 open, 0 without answer')
        for retries, seconds in ((3, '10 s'), (10**15, r'[0-9]+ y( \d+ d)?')):
            _, _, err = run('cscan.py', '-f', '127.0.0.1', '-p', target[10:], '--once', '-t', 500,
                            '--retries', retries, *self.base)
            self.assertRegex(err, r', 1 probe in at most %s\n' % seconds)

    def test_target_files(self):
        host, port = self.hosts.open('127.4.0.9')
        found = ['127.4.0.9:%d' % port]
        text = self.path('ranges.txt', b'\xef\xbb\xbf# mine\r\n127.4.0.0/28  # lab\r\n\r\n')
        with open(self.path('ranges.csw'), 'wb') as file:
            file.write(cscan.pack_csw([(0x7f040000, 0x7f04000f)], 'x'))
        with open(self.path('ports.csp'), 'wb') as file:
            file.write(cscan.pack_table([(port, 2), (1, 1)], 'x'))
        for args, stdin in ((['-f', text], b''), (['-f', self.path('ranges.csw')], b''),
                            (['-f', '-'], b'127.4.0.0-127.4.0.15\n'),
                            (['-f', '127.4.0.0/29,127.4.0.9'], b''),
                            (['-f', '127.4.0.0/29', '-f', '127.4.0.9'], b'')):
            with self.subTest(args=args):
                self.assertEqual(self.lines(*args, '-p', port, '--once', stdin=stdin), found)
        for option in ('-pf', '-fp'):
            self.assertEqual(self.lines('-f', text, option, self.path('ports.csp'), '--once'),
                             found)
        self.assertEqual(self.lines('-f', text, '-xf', '127.4.0.8/29', '-p', port, '--once'), [])
        self.assertEqual(self.lines('-f', text, '--exclude', '-', '-p', port, '--once',
                                    stdin=b'127.4.0.9\n'), [])

    def test_ends(self):
        """-n, --max-results and --max-runtime end random draws; results are exact."""
        port = self.hosts.open('127.5.0.1')[1]
        for i in range(2, 60):
            self.hosts.open('127.5.0.%d' % i, port)         # none is found 100 times
        args = ['-f', '127.5.0.1-127.5.0.59', '-p', port]
        for count in (1, 7, 20):
            self.assertEqual(len(self.lines(*args, '-ct', 0, '--max-results', count)), count)
        self.assertEqual(len(self.lines(*args, '-ct', 0, '-n', 33)), 33)
        begin = time.monotonic()
        self.lines(*args, '-r', 50, '--max-runtime', 0.5)
        self.assertLess(time.monotonic() - begin, 10)

    def test_reader_leaves(self):
        """| head: quietly, status 0, while results come and when none do."""
        port = self.hosts.serving()[1]
        for args in (['-f', '127.0.0.1', '-p', port], ['-f', '127.0.0.2', '-p', port],
                     ['-l', '-f', 'private'],
                     ['-f', '127.0.0.1', '-p', port, '-st', 10, '-o', '/dev/stdout']):
            with self.subTest(args=args):
                process = start('cscan.py', '-q', *self.base, *args)
                if args[1] != '127.0.0.2':
                    process.stdout.read(1)
                process.stdout.close()
                self.assertEqual(process.wait(20), 0)
                self.assertEqual(process.stderr.read(), b'')
                process.stderr.close()

    def test_signals(self):
        """The first lets pending ones finish and drains; status 130 and 143; the second ends."""
        silent, port = self.hosts.silent(), self.hosts.serving()[1]
        for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            with self.subTest(number=number):
                path = self.path('%d.cba' % number)
                process = start('cscan.py', *self.base, '-f', '127.0.0.1', '-p', port, '-o', path)
                wait_until(lambda: os.path.exists(path) and cba_entries(path))
                process.send_signal(number)
                _, err = process.communicate(timeout=20)
                self.assertEqual(process.returncode, status)
                self.assertRegex(err.decode(), r'\(interrupted\): [0-9]+ open')
                with open(path, 'rb') as file:
                    cba = cba_reader.CBA(file)
                    found = len(list(cba.entries('')))
                self.assertEqual(cba.cut, '')
                self.assertIn(' %d open' % found, err.decode())
        process = start('cscan.py', *self.base, '-f', '127.0.0.1', '-p', silent[1], '-t', 60000,
                        '--once')
        process.stderr.readline()
        time.sleep(0.3)                 # until the scan has begun: it tells nothing more
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        self.assertIsNone(process.poll())
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(5), 130)
        process.communicate()

    def test_signal_without_scan(self):
        process = start('cscan.py', '-l', '-f', 'private', stdout=subprocess.DEVNULL)
        time.sleep(0.5)                 # it lists for ever
        process.send_signal(signal.SIGINT)
        self.assertEqual((process.wait(5), process.communicate()[1]), (130, b''))

    def test_kill(self):
        """kill -9: the file reads up to the last second; the next run repairs and goes on."""
        path = self.path('scan.cba')
        port = self.hosts.serving()[1]
        args = ['-q', *self.base, '-f', '127.0.0.1', '-p', port, '-r', 200, '-o', path]
        total = 0
        for _ in range(10 if TEST_ALL else 1):
            process = start('cscan.py', *args)
            begin = time.monotonic()
            wait_until(lambda: os.path.exists(path) and len(cba_entries(path)) > total)
            time.sleep(1.2 if TEST_ALL else 0.7)
            process.kill()
            running = time.monotonic() - begin
            process.communicate()
            before, total = total, len(cba_entries(path))
            self.assertGreater(total - before, 0)
            self.assertLess(total - before, 200 * running + 20)
        status, _, err = self.scan('-f', '127.0.0.1', '-p', port, '-n', 5, '-o', path)
        self.assertEqual((status, len(cba_entries(path))), (0, total + 5))

    def test_disk_full(self):
        """Results go to stderr as well, the scan stops, status 1: stdout and -o."""
        port = self.hosts.serving()[1]
        args = ['-q', *self.base, '-f', '127.0.0.1', '-p', port]
        with open('/dev/full', 'wb') as full:
            process = start('cscan.py', *args, stdout=full)
            _, err = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 1)
        self.assertIn('127.0.0.1:%d\n' % port, err.decode())
        self.assertIn('cscan: standard output: No space left on device', err.decode())

        def small_files():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
        path = self.path('full.cba')
        status, out, err = run('cscan.py', *args, '-r', 100, '-o', path, preexec_fn=small_files)
        self.assertEqual((status, out), (1, ''))
        self.assertIn('127.0.0.1:%d\n' % port, err)
        self.assertIn('full.cba: File too large', err)
        with open(path, 'rb') as file:
            cba = cba_reader.CBA(file)
            self.assertTrue(list(cba.entries('')))
            self.assertEqual(cba.cut, '')

    def test_output_vanishes(self):
        port = self.hosts.serving()[1]
        path = self.path('gone.cba')
        process = start('cscan.py', '-q', *self.base, '-f', '127.0.0.1', '-p', port, '-o', path)
        wait_until(lambda: os.path.exists(path) and cba_entries(path))
        os.unlink(path)
        _, err = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 1)
        self.assertIn('127.0.0.1:%d\n' % port, err.decode())
        self.assertIn('gone.cba: No such file or directory', err.decode())

    def test_closed_streams(self):
        """A closed stdout is an error, not a place for sockets; a closed stderr is silence."""
        port = self.hosts.open()[1]
        args = ['-q', *self.base, '-f', '127.0.0.1', '-p', port, '--once']
        status, _, err = run('cscan.py', *args, preexec_fn=lambda: os.close(1))
        self.assertEqual(status, 1)
        self.assertIn('standard output: Bad file descriptor', err)
        status, out, _ = run('cscan.py', *args, preexec_fn=lambda: os.close(2))
        self.assertEqual((status, out), (0, '127.0.0.1:%d\n' % port))
        self.assertEqual(run('cscan.py', '-zz', redirect='2>&-'), (2, '', ''))

    def test_daemon(self):
        """-d comes back at once; results, statistics and messages are in the files."""
        port = self.hosts.open()[1]
        log, path = self.path('log'), self.path('d.cba')
        args = [*self.base, '-f', '127.0.0.1', '-p', port, '-n', 3, '-d']
        self.assertEqual(run('cscan.py', *args, '-o', path, '--log', log)[0], 0)
        wait_until(lambda: '3 packets in' in read_text(log))
        self.assertEqual(len(cba_entries(path)), 3)
        os.unlink(log)
        self.assertEqual(run('cscan.py', *args, '--log', log)[0], 0)
        wait_until(lambda: '3 packets in' in read_text(log))
        self.assertEqual(read_text(log).count('127.0.0.1:%d\n' % port), 3)

    def test_statistics(self):
        """-st lines on stderr, and in the CBA as the original writes them."""
        args = ['-f', '127.0.0.0/24', '-p', '9', '--once', '-ct', 0, '-st', 100, *self.base]
        _, _, err = run('cscan.py', *args)
        self.assertRegex(err, r'cscan: [0-9]+ packets, 0 results, [0-9]+ new events\n')
        run('cscan.py', *args, '-o', self.path('s.cba'))
        entry, = cba_entries(self.path('s.cba'), 'cscan')
        kinds = [(kind, code) for kind, code, _ in entry.events]
        self.assertEqual(entry.events[0], (cba_reader.CBA_INT32, 10, 100))
        self.assertEqual(kinds[1:4], [(cba_reader.CBA_INT64, 11), (cba_reader.CBA_INT32, 0),
                                      (cba_reader.CBA_INT32, 0)])
        self.assertAlmostEqual(entry.dict[11], time.time(), delta=60)

    def test_terminal(self):
        """A status line on a terminal; result lines do not run into it."""
        port = self.hosts.open()[1]
        args = ['-f', '127.0.0.0/24', '-p', '%d,9' % port, '--once', '-r', 400, *self.base]
        pid, terminal = pty.fork()
        if pid == 0:
            os.execv(sys.executable, tool('cscan.py', *args))
        shown = b''
        with contextlib.suppress(OSError):      # EIO is a terminal's end of file
            for piece in iter(lambda: os.read(terminal, 4096), b''):
                shown += piece
        os.close(terminal)
        self.assertEqual(os.waitpid(pid, 0)[1], 0)
        shown = shown.decode()
        self.assertRegex(shown, r'\r[0-9]+/s, [0-9]+ sent \([0-9.]+%\), [0-9.]+ s left, '
                                r'[01] open, [0-9]+ pending\x1b\[K')
        self.assertRegex(shown, r'(\n|\x1b\[K)127\.0\.0\.1:%d\r\n' % port)
        self.assertRegex(shown, r'(\n|\x1b\[K)cscan: 512 packets in [0-9.]+ s: 1 open, '
                                r'511 refused')

    def test_x(self):
        """-x: three forms of lines; others are told; comments pass."""
        status, out, err = run('cscan.py', '-x', stdin=b'1.2.3.4:5\n1.2.3.4 6\n1.2.3.4,7\n# x\n\n')
        self.assertEqual((status, sorted(out.split()), err),
                         (0, ['1.2.3.4:5', '1.2.3.4:6', '1.2.3.4:7'], ''))
        status, out, err = run('cscan.py', '-x', stdin=b'1.2.3.4:5\nrubbish\n1.2.3.4:0\n\xff\n')
        self.assertEqual((status, out), (1, '1.2.3.4:5\n'))
        self.assertIn("standard input:2: 'rubbish': ip:port was expected", err)
        self.assertEqual(err.count('\n'), 3)
        status, out, err = run('cscan.py', '-x', '-xf', '1.2.3.0/24',
                               stdin=b'1.2.3.4:5\n1.2.4.0:6\n')
        self.assertEqual((status, out, err), (0, '1.2.4.0:6\n', 'cscan: 1 result excluded\n'))
        status, out, err = run('cscan.py', '-x', redirect='<&-')
        self.assertEqual((status, out, err.count('\n')), (1, '', 1))
        pairs_of_octets = itertools.product(range(8), range(256))
        many = b''.join(b'10.0.%d.%d:80\n' % pair for pair in pairs_of_octets)
        for options in ([], ['-mt', 1], ['-mt', 20, '-pr', 1]):
            status, out, err = run('cscan.py', '-x', *options, stdin=many)
            self.assertEqual((status, sorted(out.split())), (0, sorted(many.decode().split())))
        self.assertEqual(len(run('cscan.py', '-x', '--max-results', 7, stdin=many)[1].split()), 7)

    def test_help(self):
        status, out, err = run('cscan.py', '-h')
        self.assertEqual((status, err), (0, ''))
        for word in ('(default: 520)', 'max_open_files (hard)', 'conntrack_max',
                     'conntrack_span (s)',
                     'max_user_watches', 'local_port_range', 'print', 'examples:'):
            self.assertIn(word, out)

    def test_canary_in_the_file(self):
        """Bits 21 and 22 of the original."""
        rows = ((self.hosts.closed(), 22), (self.hosts.silent(), 21), (self.hosts.open(), None))
        for (_, port), code in rows:
            with self.subTest(code=code):
                path = self.path('%s.cba' % code)
                status, _, err = self.scan('-f', '127.0.0.0/24', '-p', 9, '--once', '-ct', 0,
                                           '-t', 300,
                                           '-c', '127.0.0.1', '-cp', port, '-ca', 10, '-o', path)
                self.assertEqual(status, 0)
                entry, = cba_entries(path, 'cscan')
                self.assertEqual([c for c in (21, 22) if c in entry.dict], [code] if code else [])
                self.assertEqual('canary' in err, bool(code))


class Modules(Case):
    """The registry, module threads, and users' files."""

    def setUp(self):
        super().setUp()
        self.hosts = Hosts(self)
        self.base = ['-q', '-b', next(FREE_PORT), '-bt', 50]

    def module(self, text, *args, name='mine.py', stdin=b'127.0.0.1:1\n'):
        """-x with a module of this text -> (status, stdout, stderr)."""
        path = self.path(name, text.encode())
        return run('cscan.py', '-q', '-x', '-mod', path, *args, stdin=stdin)

    def test_readme_example(self):
        """The module of the README works as written."""
        with open(os.path.join(HERE, 'README.md')) as file:
            code, command = re.search(r'    # greeting\.py\n(.*?)\n    (python3 cscan\.py .*?)\n',
                                      file.read(), re.S).groups()
        code = ''.join(line[4:] + '\n' for line in code.splitlines())
        self.assertLessEqual(len([line for line in code.splitlines() if line]), 10)
        port = str(self.hosts.serving(greeting=b'SSH-2.0-\x1b[31mtest\r\n')[1])
        self.path('greeting.py', code.encode())
        args = command.split()[2:]
        args[args.index('22')] = port
        status, out, err = run('cscan.py', *self.base, *args, cwd=self.folder)
        self.assertEqual((status, err), (0, ''))
        self.assertEqual(out, 'module: greeting\n127.0.0.1:%s SSH-2.0-\\x1b[31mtest\n' % port)

    def test_import_gives_the_running_program(self):
        """Also when the program's file has another name."""
        text = """
import cscan, sys
@cscan.module('mine')
def check(target, out, options):
    out.str(str(cscan is sys.modules['__main__'] and cscan.MODULES['mine'].check is check))
"""
        copy = self.path('other.py')
        shutil.copy(os.path.join(HERE, 'cscan.py'), copy)
        self.path('mine.py', text.encode())
        process = subprocess.Popen([sys.executable, copy, '-x', '-mod', './mine.py'],
                                   cwd=self.folder,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.assertEqual(process.communicate(b'1.2.3.4:5\n', 20)[0], b'module: mine\nTrue\n')

    def test_options(self):
        text = """
import cscan
@cscan.module('mine', options={'n': (3, 'a number'), 's': ('x', 'text'), 'f': (1.5, 'real')})
def check(target, out, options):
    out.str('%r %r %r' % (options.n, options.s, options.f))
"""
        for settings, line in (('', "3 'x' 1.5"), ('mine.n=7', "7 'x' 1.5"),
                               ('mine.s=1,2 3,mine.n=4', "4 '1,2,3' 1.5"),
                               ('mine.f=2', "3 'x' 2.0")):
            with self.subTest(settings):
                self.assertIn('\n%s\n' % line, self.module(text, '-mcfg', settings)[1])
        status, _, err = self.module(text, '-mcfg', 'mine.n=abc')
        self.assertEqual((status, err), (
            1, "cscan: argument -mcfg: mine.n='abc': a whole number was expected\n"))
        self.assertIn('module mine has n, s, f', self.module(text, '-mcfg', 'mine.z=1')[2])

    def test_filters(self):
        """A filter runs first, wherever it stands in -mod, and drops what it returns False for."""
        text = """
import cscan
@cscan.module('even', filter=True)
def check_even(target, out, options):
    if target.port % 2:
        return False
"""
        path = self.path('even.py', text.encode())
        stdin = b''.join(b'10.0.0.1:%d\n' % port for port in range(1, 101))
        for order in ('print,' + path, path + ' print'):
            _, out, _ = run('cscan.py', '-x', '-mod', order, stdin=stdin)
            self.assertEqual(sorted(out.split()), sorted('10.0.0.1:%d' % p
                                                         for p in range(2, 101, 2)))
        _, out, _ = run('cscan.py', '-x', '-mod', 'print,' + path, '--max-results', 9, stdin=stdin)
        self.assertEqual(len(out.split()), 9)

    def test_raising(self):
        """Counted and named, told once; the scan goes on."""
        text = """
import cscan
@cscan.module('bad')
def check(target, out, options):
    if target.port % 2:
        raise KeyError(target.port)
    raise ConnectionResetError(104, 'Connection reset by peer')
"""
        stdin = b''.join(b'10.0.0.1:%d\n' % port for port in range(1, 11))
        path = self.path('bad.py', text.encode())
        status, out, err = run('cscan.py', '-x', '-mod', path + ',print', stdin=stdin)
        self.assertEqual((status, len(out.split())), (0, 10))
        self.assertEqual(len(re.findall('module bad: KeyError', err)), 1)
        self.assertIn('module bad: raised 5 times', err)
        self.assertIn('module bad: Connection reset by peer: 5 targets', err)

    def test_exit_in_a_module(self):
        """sys.exit() is a bug like others: no thread ends, nothing hangs."""
        text = """
import cscan, sys
@cscan.module('quits', entry='')
def check(target, out, options):
    out.str(str(target))
    sys.exit('no')
"""
        stdin = b''.join(b'10.0.0.1:%d\n' % port for port in range(1, 101))
        status, out, err = self.module(text, stdin=stdin)
        self.assertEqual((status, len(out.split())), (0, 100))
        self.assertIn('module quits: raised 100 times', err)

    def test_head_stays(self):
        """An event that does not fit takes nothing with it."""
        text = """
import cscan
@cscan.module('big')
def check(target, out, options):
    try:
        out.int32(1 << 40)
    except Exception:
        out.str('too big')
"""
        path = self.path('big.cba')
        self.module(text, '-o', path)
        self.assertEqual([entry.dict for entry in cba_entries(path, 'big')], [{0: 'too big'}])

    def test_bad_files(self):
        for text, words in (('def', ': line 1: '), ('1/0', 'ZeroDivisionError'),
                            ('x = 1', 'no module'),
                            ('import sys; sys.exit(0)', 'SystemExit')):
            with self.subTest(text):
                status, out, err = self.module(text)
                self.assertEqual((status, out, err.count('\n')), (1, '', 1))
                self.assertIn(words, err)

    def test_slow_module_pauses_the_scan(self):
        """-pr 1 with a slow module: every target is found, and none counts as silent."""
        text = """
import cscan, time
@cscan.module('slow', entry='')
def check(target, out, options):
    time.sleep(0.03)
    out.str(str(target))
"""
        port = self.hosts.open('127.6.0.1')[1]
        for i in range(2, 21):
            self.hosts.open('127.6.0.%d' % i, port)
        path = self.path('slow.py', text.encode())
        status, out, err = run('cscan.py', *self.base[1:], '-f', '127.6.0.1-127.6.0.20', '-p',
                               port,
                               '--once', '-mod', path, '-mt', 1, '-pr', 1, '-t', 100, '-m', 4)
        self.assertEqual((status, len(set(out.split()))), (0, 20))
        self.assertIn('20 packets in', err)
        self.assertIn('20 open, 0 without answer', err)

    def test_files(self):
        """A module's file: in the CBA with -o, below -of without."""
        text = """
import cscan
@cscan.module('shot')
def check(target, out, options):
    out.later('later')
    if target.port != 9:
        out.file('shots/../%s.png' % target.host, b'x' * 70000, 12)
        out.data(b'abc', 3); out.bit(6); out.int32(-1); out.int64(1 << 40)
"""
        folder, cba = self.path('files'), self.path('s.cba')
        stdin = b'10.0.0.1:80\n10.0.0.2:9\n'
        _, out, _ = self.module(text, '-of', folder, stdin=stdin)
        saved = os.path.join(folder, 'shots', '10.0.0.1.png')
        self.assertEqual(out, 'module: shot\nlater\nsaving file %s\nbinary data of length 3\n'
                              'bit set for code 6\nint32 -1\nint64 1099511627776\n' % saved)
        self.assertEqual(os.path.getsize(saved), 70000)
        self.module(text, '-o', cba, stdin=stdin)
        entry, = cba_entries(cba, None)
        self.assertEqual(entry.events, [
            (cba_reader.CBA_STR, 0, 'later'), (cba_reader.CBA_FILE, 12, 'shots/../10.0.0.1.png'),
            (cba_reader.CBA_DATA, 3, b'abc'), (cba_reader.CBA_BIT, 6, True),
            (cba_reader.CBA_INT32, 0, -1), (cba_reader.CBA_INT64, 0, 1 << 40)])

    def test_timed_socket(self):
        """One deadline for the whole talk, however slowly the peer drips."""
        listener = self.hosts.listener()
        host, port = listener.getsockname()

        def drip():
            peer, _ = listener.accept()
            with contextlib.suppress(OSError), peer:
                while True:
                    peer.sendall(b'x')
                    time.sleep(0.05)
        threading.Thread(target=drip, daemon=True).start()
        begin = time.monotonic()
        with cscan.TimedSocket(host, port, 300) as sock:
            self.assertEqual(sock.read_exact(2), b'xx')
            with self.assertRaises(socket.timeout):
                sock.read_exact(1000)
        self.assertLess(time.monotonic() - begin, 2)
        with cscan.TimedSocket(host, port, 2000) as sock:
            peer, _ = listener.accept()
            sock.write_all(b'abc')
            self.assertEqual(peer.recv(10), b'abc')
            peer.sendall(b'12')
            peer.close()
            with self.assertRaisesRegex(ConnectionError, 'after 2 of 3'):
                sock.read_exact(3)


# ==== Live ============================================================================

SNIFFER = r"""
import socket, struct, sys
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))     # ETH_P_ALL: both ways
sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)            # SO_RCVBUFFORCE
sock.setsockopt(socket.SOL_SOCKET, 35, 1)                   # SO_TIMESTAMPNS
sock.bind((sys.argv[1], 3))
print('ready', flush=True)
while True:
    frame, extra, _, _ = sock.recvmsg(128, 64)
    at = 14 + (frame[14] & 15) * 4
    if frame[12:14] == b'\x08\0' and frame[23] == 6 and frame[at + 13] & 0x12 == 2:   # SYN, no ACK
        seconds, nanoseconds = struct.unpack('ll', extra[0][2][:16])
        print('%d.%09d %s %d' % (seconds, nanoseconds, socket.inet_ntoa(frame[30:34]),
                                 struct.unpack_from('!H', frame, at + 2)[0]), flush=True)
"""


def can_make_namespaces():
    if os.geteuid() or not shutil.which('ip'):
        return False
    name = 'cscan-%d-probe' % os.getpid()
    made = subprocess.call(['ip', 'netns', 'add', name], stderr=subprocess.DEVNULL) == 0
    if made:
        subprocess.call(['ip', 'netns', 'del', name])
    return made


class Live(Case):
    """Against real nets that are silent, unreachable or lossy: namespaces of our own, as root.

    near    where the scanner runs: 10.77.0.1, everything else through 10.77.0.2
    far     answers for 10.64.0.0/16, swallows 10.128.0.0/9
    """

    @classmethod
    def setUpClass(cls):
        if not can_make_namespaces():
            if REQUIRED:
                raise AssertionError('LIVE=required: needs root and `ip netns`')
            raise unittest.SkipTest('needs root and `ip netns`')
        cls.near, cls.far = ('cscan-%d-%s' % (os.getpid(), end) for end in ('near', 'far'))
        for line in """
            netns add NEAR; netns add FAR; -n NEAR link set lo up; -n FAR link set lo up
            -n NEAR link add v0 type veth peer name v1 netns FAR
            -n NEAR addr add 10.77.0.1/24 dev v0; -n FAR addr add 10.77.0.2/24 dev v1
            -n NEAR link set v0 up; -n FAR link set v1 up
            -n NEAR route add 10.64.0.0/10 via 10.77.0.2
            -n NEAR route add 10.128.0.0/9 via 10.77.0.2
            -n NEAR route add unreachable 10.1.0.0/16; -n NEAR route add prohibit 10.2.0.0/16
            -n FAR route add local 10.64.0.0/16 dev lo
            -n FAR route add blackhole 10.128.0.0/9""".replace('\n', ';').split(';'):
            if line.strip():
                words = line.replace('NEAR', cls.near).replace('FAR', cls.far).split()
                subprocess.check_call(['ip'] + words)

    @classmethod
    def tearDownClass(cls):
        for name in (cls.near, cls.far):
            subprocess.call(['ip', 'netns', 'del', name])

    @staticmethod
    def inside(namespace, *command):
        return subprocess.check_output(['ip', 'netns', 'exec', namespace] + list(command))

    def start(self, *args):
        """cscan.py in the near namespace -> Popen."""
        return subprocess.Popen(['ip', 'netns', 'exec', self.near] + tool('cscan.py', *args),
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def scan(self, *args, timeout=60):
        process = self.start(*args)
        out, err = process.communicate(timeout=timeout)
        return process.returncode, out.decode(), err.decode()

    def sniff(self):
        """Start to watch SYNs that leave; call the result for [(time, host, port)] so far."""
        path = self.path('syns')
        with open(path, 'wb') as file:
            process = subprocess.Popen(['ip', 'netns', 'exec', self.near, sys.executable, '-c',
                                        SNIFFER,
                                        'v0'], stdout=file)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)

        def read():
            with open(path) as lines:
                rows = [line.split() for line in lines]
            return [(float(row[0]), row[1], int(row[2])) for row in rows if len(row) == 3]
        wait_until(lambda: os.path.getsize(path))
        return read

    def most_in_a_second(self, times):
        """The largest number of times within any second."""
        times, first, most = sorted(times), 0, 0
        for index, when in enumerate(times):
            while times[first] <= when - 1:
                first += 1
            most = max(most, index + 1 - first)
        return most

    def server(self, *addresses):
        """Listen on host:port addresses in the far namespace."""
        code = ('import socket, sys, time\nkeep = []\nfor a in sys.argv[1:]:\n'
                ' s = socket.socket(); h, p = a.split(":"); s.bind((h, int(p))); s.listen(99)\n'
                ' keep.append(s)\nprint("ready", flush=True)\ntime.sleep(600)')
        process = subprocess.Popen(['ip', 'netns', 'exec', self.far, sys.executable, '-c', code]
                                   + list(addresses), stdout=subprocess.PIPE)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.readline(), b'ready\n')

    def test_kinds_of_answers(self):
        """Open, refused, three kinds of unreachable, silence: each counted as what it is."""
        self.server('10.64.0.7:80', '10.64.1.9:80')
        status, out, err = self.scan(
            '-f', '10.64.0.0/23,10.1.0.0/28,10.2.0.0/28,192.0.2.0/28,10.128.0.0/28',
            '--once', '-ct', 0, '-t', 500)
        self.assertEqual((status, sorted(out.split())), (0, ['10.64.0.7:80', '10.64.1.9:80']))
        self.assertRegex(err, r'576 packets in [0-9.]+ s: 2 open, 510 refused, '
                              r'.*16 without answer\n$')
        for words in ('16 host unreachable', '16 prohibited', '16 net unreachable'):
            self.assertIn(words, err)

    def test_ceiling(self):
        """No second has more SYNs than -r and one burst, also around a pause of the process."""
        read = self.sniff()
        process = self.start('-q', '-f', '10.128.0.0/16', '-r', 500, '-t', 400, '--max-runtime',
                             1.7)
        wait_until(lambda: len(read()) > 400)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.6)
        process.send_signal(signal.SIGCONT)
        self.assertEqual(process.wait(20), 0)
        process.communicate()
        times = [when for when, _, _ in read()]
        self.assertLessEqual(self.most_in_a_second(times), 500 + 25 + 1)
        self.assertGreater(len(times), 400)

    def test_kernel_repeats_count(self):
        """-t 1500: the kernel sends each SYN twice, and the rate holds for all of them."""
        read = self.sniff()
        self.scan('-q', '-f', '10.129.0.0/16', '-r', 60, '-t', 1500, '-n', 45)
        syns = read()
        self.assertLessEqual(self.most_in_a_second([when for when, _, _ in syns]), 60 + 3 + 1)
        counts = collections.Counter(host for _, host, _ in syns)
        self.assertEqual(set(counts.values()), {2})

    def test_retries_on_the_wire(self):
        """Each silent target is tried again once, at least a second later."""
        read = self.sniff()
        status, _, err = self.scan('-f', '10.130.0.0/27', '--once', '-t', 200, '-r', 1000,
                                   '--retries', 1)
        self.assertIn('64 packets in', err)
        self.assertIn('32 without answer, 32 retries', err)
        times = collections.defaultdict(list)
        for when, host, _ in read():
            times[host].append(when)
        self.assertEqual(len(times), 32)
        for first, second in times.values():
            self.assertGreater(second - first, 1.0)

    def test_kernel_chosen_ports(self):
        """-b 0 and -bi: ports of the local range, the address asked for, nothing lost."""
        self.server('10.64.0.7:80', '10.64.0.200:80')
        self.inside(self.near, 'ip', 'addr', 'add', '10.77.0.55/24', 'dev', 'v0')
        for options in (['-b', 0], ['-b', 0, '-bi', '10.77.0.55'], ['-bi', '10.77.0.55']):
            with self.subTest(options=options):
                status, out, _ = self.scan('-q', '-f', '10.64.0.0/24', '--once', '-ct', 0,
                                           *options)
                self.assertEqual((status, sorted(out.split())),
                                 (0, ['10.64.0.200:80', '10.64.0.7:80']))

    def test_two_scans_share_a_source_port(self):
        self.server('10.64.0.7:80', '10.64.0.200:80')
        scans = [self.start('-q', '-f', '10.64.0.0/22', '--once', '-r', 2000, '-t', 500)
                 for _ in range(2)]
        for process in scans:
            out, err = process.communicate(timeout=60)
            self.assertEqual(sorted(out.decode().split()), ['10.64.0.200:80', '10.64.0.7:80'])
            self.assertEqual(process.returncode, 0)

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1: lowers a limit of the whole machine for seconds')
    def test_conntrack_table_full(self):
        """SYNs that a full table dropped are sent again, and every open port is found."""
        path = cscan.Conntrack.LIMIT
        if not os.path.exists(path) or not shutil.which('iptables'):
            if REQUIRED:
                self.fail('LIVE=required: needs iptables and nf_conntrack')
            self.skipTest('needs iptables and nf_conntrack')
        self.inside(self.near, *'iptables -A OUTPUT -m conntrack --ctstate INVALID'.split())
        for setting in ('syn_sent=3', 'close=1'):
            self.inside(self.near, 'sysctl', '-qw',
                        'net.netfilter.nf_conntrack_tcp_timeout_' + setting)
        targets = ['10.64.0.%d:80' % i for i in range(10, 250, 10)]
        self.server(*targets)
        with open(path) as file:
            before = file.read()
        try:
            with open(path, 'w') as file:
                file.write('400')
            read = self.sniff()
            status, out, err = self.scan('-f', '10.64.0.0/24,10.131.0.0/22', '--once', '-r', 2000,
                                         '-t', 500,
                                         timeout=200)
        finally:
            with open(path, 'w') as file:
                file.write(before)
        self.assertEqual((status, sorted(out.split())), (0, sorted(targets)))
        self.assertIn('conntrack table full', err)
        self.assertIn('sent again (conntrack)', err)
        self.assertEqual(len({host for _, host, _ in read()}), 256 + 1024)


# ==== Style ===========================================================================

class Style(unittest.TestCase):
    """House rules that a program can check."""

    @classmethod
    def setUpClass(cls):
        cls.text, cls.lines, cls.tree = {}, {}, {}
        for tool in STANDARD:
            with open(os.path.join(HERE, tool), encoding='utf-8') as file:
                cls.text[tool] = file.read()
            cls.lines[tool] = cls.text[tool].split('\n')
            cls.tree[tool] = ast.parse(cls.text[tool])

    def each(self, kind):
        """Yield (node, its place)."""
        for tool, tree in self.tree.items():
            for node in ast.walk(tree):
                if isinstance(node, kind):
                    yield node, '%s:%d' % (tool, node.lineno)

    def test_imports(self):
        for tool, tree in self.tree.items():
            with self.subTest(tool=tool):
                nodes = [node for node in ast.walk(tree)
                         if isinstance(node, (ast.Import, ast.ImportFrom))]
                names = [alias.name for node in nodes for alias in node.names]
                self.assertEqual([node.lineno for node in nodes
                                  if isinstance(node, ast.ImportFrom) or len(node.names) > 1], [])
                self.assertEqual(set(names) - STANDARD[tool], set())
                self.assertEqual(set(names) & UNWANTED, set())
                self.assertEqual([name for name in names
                                  if not re.search(r'\b%s\.' % name, self.text[tool])], [])
                top = [node.names[0].name for node in tree.body if isinstance(node, ast.Import)]
                self.assertEqual(top, sorted(top))

    def test_presets_are_data(self):
        names = os.listdir(os.path.join(HERE, 'presets'))
        self.assertEqual({os.path.splitext(name)[1] for name in names}, {'.txt', '.csw'})

    def test_lines(self):
        for tool, lines in self.lines.items():
            with self.subTest(tool=tool):
                self.assertEqual([number for number, line in enumerate(lines, 1)
                                  if len(line) > 99], [], 'longer than 99')
                self.assertEqual([number for number, line in enumerate(lines, 1)
                                  if '\t' in line or line != line.rstrip()], [], 'tab, end')

    def test_banners(self):
        for tool, lines in self.lines.items():
            with self.subTest(tool=tool):
                banners = [line for line in lines if line.startswith('# ====')]
                self.assertEqual([line for line in banners if len(line) != 88], [])
                found = [re.match(r'# ==== ([0-9]+) (\S.*\S) =+$', line) for line in banners]
                self.assertNotIn(None, found)
                contents = self.text[tool].partition('\nContents\n')[2].partition('\n\n')[0]
                self.assertEqual([match.groups() for match in found],
                                 re.findall(r'^    ([0-9]+) (\S+(?: \S+)*)', contents, re.M))
                self.assertEqual([int(match.group(1)) for match in found],
                                 list(range(1, len(found) + 1)))
                self.assertEqual([line for line in lines if line.startswith('# --')
                                  and not re.match(r'# ---- \S.*[^- ] -{4,}$', line)], [])

    def blocks(self):
        """{mark: {tool: (first line, last line)}} of the text that stands in several files."""
        blocks = collections.defaultdict(dict)
        for tool, lines in self.lines.items():
            for number, line in enumerate(lines):
                mark = re.match(r'# ---- same in (.*) ----$', line)
                if mark:
                    last = lines.index('# ---- end of same in %s ----' % mark.group(1), number)
                    blocks[mark.group(1)][tool] = number, last
        return blocks

    def test_same_blocks(self):
        self.assertGreaterEqual(len(self.blocks()), 3)
        for mark, places in self.blocks().items():
            with self.subTest(mark=mark):
                self.assertEqual(set(places), set(mark.split(' and ')))
                texts = [self.lines[tool][first:last] for tool, (first, last) in places.items()]
                for text in texts[1:]:
                    self.assertEqual(text, texts[0])

    def test_same_is_marked(self):
        """What two files both define stands in such a block."""
        homes = collections.defaultdict(list)
        for tool, tree in self.tree.items():
            places = [block[tool] for block in self.blocks().values() if tool in block]
            for node in tree.body:
                if not any(first < node.lineno <= last for first, last in places):
                    for target in getattr(node, 'targets', [node]):
                        homes[getattr(target, 'id', getattr(target, 'name', None))].append(tool)
        self.assertEqual({name: tools for name, tools in homes.items()
                          if name and len(tools) > 1 and name not in EACH_ITS_OWN}, {})

    def sizes(self, tool):
        """(lines, name) of each function."""
        for node in ast.walk(self.tree[tool]):
            if isinstance(node, ast.FunctionDef):
                first = node.lineno             # of the decorator, before 3.8
                while not self.lines[tool][first - 1].lstrip().startswith('def '):
                    first += 1
                last = max(getattr(each, 'lineno', 0) for each in ast.walk(node))
                yield last - first + 1, node.name

    def test_sizes(self):
        for tool in STANDARD:
            with self.subTest(tool=tool):
                sizes = sorted(self.sizes(tool))
                self.assertEqual([(size, name) for size, name in sizes
                                  if size > 60 and name != 'make_parser'], [])
                self.assertLessEqual(sizes[len(sizes) // 2][0], 10, 'median')
                self.assertLessEqual(sizes[len(sizes) * 9 // 10][0], 35, '90 %')

    def test_exceptions_have_names(self):
        for node, place in self.each(ast.ExceptHandler):
            self.assertIsNotNone(node.type, place)

    def test_no_global(self):
        self.assertEqual([place for _, place in self.each(ast.Global)], [])

    def test_names(self):
        for node, place in self.each(ast.Name):
            self.assertNotIn(node.id, ('l', 'O'), place)

    def test_docstrings(self):
        for tool, tree in self.tree.items():
            with self.subTest(tool=tool):
                self.assertTrue(ast.get_docstring(tree))
                self.assertEqual([node.name for node in tree.body
                                  if isinstance(node, (ast.FunctionDef, ast.ClassDef))
                                  and not node.name.startswith('_')
                                  and not ast.get_docstring(node)], [])


if __name__ == '__main__':
    unittest.main()
