#!/usr/bin/env python3
"""Tests of everything: python3 -m unittest test_all, or python3 test_all.py Engine.test_traps.

Standard library only.  Classes stand in the order of the layers.  Loopback addresses serve as
hosts; what needs root and `ip` makes network namespaces of its own (class Live), and is skipped
otherwise; LIVE=required turns a skip into a failure.  TEST_ALL=1 adds the long ones.
SEED=N repeats the random ones.
"""

import ast
import base64
import collections
import contextlib
import ctypes
import errno
import fcntl
import gzip
import hashlib
import heapq
import inspect
import io
import ipaddress
import itertools
import json
import math
import mmap
import os
import pty
import pwd
import random
import re
import resource
import select
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import types
import unittest
import unittest.mock
import warnings
import xml.etree.ElementTree
import zlib

try:
    import tracemalloc
except ImportError:                         # PyPy
    tracemalloc = None

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True

import bench                # noqa: E402 - they stand beside this file
import cba_reader           # noqa: E402
import compile_targets      # noqa: E402
import cscan                # noqa: E402
import masscanned           # noqa: E402
import metrics              # noqa: E402
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
    'bench.py': {'argparse', 'atexit', 'cba_reader', 'collections', 'compile_targets',
                 'contextlib', 'cscan', 'ctypes', 'fnmatch', 'itertools', 'json', 'os', 'platform',
                 're', 'resource', 'select', 'shutil', 'signal', 'socket', 'statistics', 'struct',
                 'subprocess', 'sys', 'tempfile', 'time'},
    'cba_reader.py': {'argparse', 'array', 'base64', 'collections', 'errno', 'hashlib', 'heapq',
                      'itertools', 'json', 'os', 're', 'shlex', 'shutil', 'struct', 'sys',
                      'tempfile', 'time'},
    'compile_targets.py': {'argparse', 'array', 'collections', 'csv', 'errno', 'gzip', 'io',
                           'itertools', 'json', 'os', 're', 'socket', 'struct', 'sys', 'tempfile',
                           'zlib'},
    'cscan.py': {'argparse', 'array', 'base64', 'bisect', 'collections', 'contextlib', 'errno',
                 'fcntl', 'gc', 'hashlib', 'heapq', 'io', 'itertools', 'json', 'math', 'mmap',
                 'operator', 'os', 'random', 're', 'resource', 'select', 'shlex', 'signal',
                 'socket', 'ssl', 'stat', 'struct', 'sys', 'tempfile', 'textwrap', 'threading',
                 'time', 'types', 'zlib'},
    'masscanned.py': {'argparse', 'bisect', 'codecs', 'collections', 'ctypes', 'errno', 'fcntl',
                      'functools', 'hashlib', 'ipaddress', 'itertools', 'mmap', 'operator', 'os',
                      'pwd', 're', 'select', 'signal', 'socket', 'stat', 'struct', 'sys',
                      'tempfile', 'time', 'zlib'},
    'metrics.py': {'argparse', 'collections', 'html', 'itertools', 'math', 'operator', 'os',
                   'struct', 'sys'},
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
    ('10.0.0.0/8-10.0.0.9', 'not an address'),
    ('10.0.0.0-10.0.0.9/8', 'not an address'), ('10.0.0.1-', 'not an address'),
    ('10.0.0.1--10.0.0.5', 'not an address'), ('10.0.0.5-1', 'the last octet is below'),
    ('10.*.*.300', 'not an address'), ('10.0.0.01-05', 'not an address'),
    ('0-1.*.*.1-2', '131072 ranges: at most 65536'), ('10.0.0.1-5/24', 'not an address'),
    ('10.0.0.1-5.6', 'not an address'), ('10.0.0.**', 'not an address'),
    ('2001:db8::/x', 'not an address'), ('2001:db8::12345', 'not an address'),
    ('name:a.example', 'a name has no place here'), ('x' * 80, 'not an address'),
    ('10.0.0.1-10.0.0.256', 'not an address'), ('10.0.0.1-10.0.0.05', 'not an address'),
    ('10.0.0.1:80', 'not an address'), ('localhost', 'not an address'),
    ('\x1b[2J', 'not an address'),
    ('10.0.0.0/33', '0 to 32'), ('10.0.0.0/99', '0 to 32'),
    ('10.0.0.5-10.0.0.4', 'below the first'), ('1.0.0.0-0.255.255.255', 'below the first'),
]

# Lines as lists have them: text, ranges, hosts by name (those without name: need --resolve), IPv6
LISTS = [
    ('1.2.3.0/24 ; SBL1234', '1.2.3.0-1.2.3.255', '', 0), ('; 10.0.0.1', '', '', 0),
    ('10.0.0.1,', '10.0.0.1', '', 0), (',,10.0.0.1,, 10.0.0.9,', '10.0.0.1 10.0.0.9', '', 0),
    ('10.0.0.1 10.0.0.9', '10.0.0.1 10.0.0.9', '', 0), (' , ', '', '', 0),
    ('10.0.0.9\t10.0.0.1 # 10.0.0.5', '10.0.0.1 10.0.0.9', '', 0),
    ('10.0.0.1 -10.0.0.3 10.0.0.7- 10.0.0.9', '10.0.0.1-10.0.0.3 10.0.0.7-10.0.0.9', '', 0),
    ('10.0.0.1-20', '10.0.0.1-10.0.0.20', '', 0), ('*.*.*.*', '0.0.0.0-255.255.255.255', '', 0),
    ('10.0.254-255.*', '10.0.254.0-10.0.255.255', '', 0),
    ('9-10.255.*.*', '9.255.0.0-9.255.255.255 10.255.0.0-10.255.255.255', '', 0),
    ('10.0.1-2.254-255', '10.0.1.254-10.0.1.255 10.0.2.254-10.0.2.255', '', 0),
    ('10.0.0-1.0-255', '10.0.0.0-10.0.1.255', '', 0), ('5.5.5.5-5', '5.5.5.5', '', 0),
    ('2001:db8::/32', '', '', 1), ('::1, 10.0.0.1 fe80::1%eth0', '10.0.0.1', '', 2),
    ('2001:db8::1-2001:db8::9', '', '', 1), ('::ffff:1.2.3.4', '', '', 1),
    ('name:a.example 10.0.0.1', '10.0.0.1', 'a.example', 0), ('name: a.example', '', 'a.example', 0),
    ('a.example,10.0.0.1 b-2.example.', '10.0.0.1', 'a.example b-2.example.', 0),
]
JSON_LISTS = [                              # whose, text, ranges, targets of IPv6
    ('AWS', '{"syncToken": "1", "prefixes": [{"ip_prefix": "3.4.12.4/32", "region": "eu"}, '
     '{"ip_prefix": "10.20.0.0/31"}], "ipv6_prefixes": [{"ipv6_prefix": "2600::/32"}]}',
     '3.4.12.4 10.20.0.0-10.20.0.1', 0),
    ('GCP', '{"prefixes": [{"ipv4Prefix": "8.8.4.0/24"}, {"ipv6Prefix": "2001:4860::/32"}]}',
     '8.8.4.0-8.8.4.255', 0),
    ('Azure', '{"values": [{"properties": {"platform": "10.20.1.4", "addressPrefixes": '
     '["13.66.60.119/32", "2603:1000::/40"]}}]}', '13.66.60.119', 1),
    ('Cloudflare', '{"result": {"ipv4_cidrs": ["173.245.48.0/20"], "ipv6_cidrs": ["::/0"]}}',
     '173.245.48.0-173.245.63.255', 0),
    ('Fastly', ' {"addresses": ["23.235.32.0/20", "10.0.0.1"], "ipv6_addresses": []}',
     '10.0.0.1 23.235.32.0-23.235.47.255', 0),
    ('Oracle', '{"regions": [{"cidrs": [{"cidr": "129.146.0.0/21", "tags": ["OCI"]}]}]}',
     '129.146.0.0-129.146.7.255', 0),
    ('an array', '["192.0.2.0/31", "2001:db8::/32", "192.0.2.9/32"]',
     '192.0.2.0-192.0.2.1 192.0.2.9', 1),
    ('a key that holds more', '{"addresses": {"cidr": "10.0.0.0/31", "version": "10.20.1.4"}}',
     '10.0.0.0-10.0.0.1', 0),
]
NO_JSON_LISTS = [                           # text, what the message says
    ('{"version": "10.20.1.4"}', 'none of the keys'), ('[]', 'none of the keys'),
    ('["10.20.1.4"]', 'none of the keys'), ('["10.0.0.0/8", "x"]', 'none of the keys'),
    ('["10.0.0.0/8", 5]', 'none of the keys'), ('{"hooks": ["10.0.0.0/8"]}', 'none of the keys'),
    ('{"ip_prefix": 5}', 'none of the keys'), ('{"cidr": "10.0.0"}', "key 'cidr': '10.0.0': not"),
    ('{"cidr": "a.example"}', "'a.example': not an address"), ('{', 'not JSON'),
    ('{"cidr": "10.*.0.1"}', "'10.*.0.1': not an address"), ('[' * 100000, 'not JSON'),
    ('{"ip": "10.0.0.1"}\n{"ip": "10.0.0.2"}', 'not JSON'),
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
    ('UTF-16', '\ufeff# \u4e2d\r\n1.2.3.4\r\n5.6.7.8'.encode('utf-16-le'), '1.2.3.4 5.6.7.8'),
    ('UTF-16, other order', '\ufeff1.2.3.4\r5.6.7.8\n'.encode('utf-16-be'), '1.2.3.4 5.6.7.8'),
    ('UTF-16, 20 octets', '\ufeff1.2.3.4#a'.encode('utf-16-le'), '1.2.3.4'),
    ('a .csw that begins like UTF-16', cscan.pack_csw([(2 * at, 2 * at) for at in range(0xfeff)],
                                                      't'), ''),
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
    ('ssh,http:3,HTTPS', [(22, 1), (80, 3), (443, 1)]), ('http-alt,ms-sql-s', [(8080, 1), (1433, 1)]),
    ('0-2', [(1, 1), (2, 1)]), ('0-1:7,80', [(1, 7), (80, 1)]),
    ('-', [(port, 1) for port in range(1, 65536)]), ('-:2', [(port, 2) for port in range(1, 65536)]),
    ('0-65535', [(port, 1) for port in range(1, 65536)]),
]
NO_PORTSPECS = [
    '', ' ', ',', '80,', ',80', '80,,81', '0', '65536', '99999', '100000', '-1', '80-', '-80',
    '80:', ':2', ':', '80:0', '80:-1', '80:1.5', '80:2:3', '80:x', '90-80', '0-0', '0:5',
    '65530-65536', '1-2-3', '1-2:0', 'httpx', 'ssh-http', 'ssh:0', '--', '0-65536', '80;443', '80 443', '0x50', '80.0', '+80',
    '\uff18\uff10', '\u00b2']

# Lines for -x, without those that are ip:port: whose, text, open ports (None: no such line)
NMAP = 'Host: 192.0.2.7 (a.example)\t'
RESULT_LINES = [
    ('masscan -oL', 'open tcp 80 192.0.2.7 1600000000', [80]),
    ('masscan -oL', 'closed tcp 80 192.0.2.7 1600000000', []),
    ('masscan -oL', 'open udp 53 192.0.2.7 1600000000', []),
    ('masscan -oL', 'banner tcp 22 192.0.2.7 1600000000 ssh SSH-2.0-x', []),
    ('masscan -oL', 'open tcp 0 192.0.2.7 1600000000', None),
    ('masscan -oL', '#masscan', []), ('masscan -oL', '# end', []),
    ('nmap -oG', NMAP + 'Status: Up', []),
    ('nmap -oG', NMAP + 'Ports: 22/open/tcp//ssh//OpenSSH, 9/closed/tcp//discard///, '
     '53/open/udp//domain///, 443/open/tcp//https///\tIgnored State: filtered (997)', [22, 443]),
    ('nmap -oG', NMAP + 'Ports: 8022/open|filtered/tcp/////', []),
    ('nmap -oG', NMAP + 'Ports: 70000/open/tcp/////', None),
    ('masscan -oG', 'Timestamp: 1600000000\tHost: 192.0.2.7 ()\tPorts: 80/open/tcp//http//', [80]),
    ('masscan -oJ', '{ "ip": "192.0.2.7", "timestamp": "16", "ports": [ {"port": 80, "proto": '
     '"tcp", "status": "open", "reason": "syn-ack", "ttl": 52} ] },', [80]),
    ('masscan -oJ', '{ "ip": "192.0.2.7", "ports": [ {"port": 80, "proto": "tcp", "service": '
     '{"name": "http", "banner": "x"} } ] }', []),
    ('masscan -oJ', '{ "ip": "192.0.2.7", "ports": [ {"port": 80, "proto": "tcp", "status": '
     '"closed"}, {"port": 81, "status": "open"} ] }', [81]),
    ('masscan -oJ', '[', []), ('masscan -oJ', '{finished: 1}', []), ('masscan -oJ', ',', []),
    ('masscan -oD', '{"ip":"192.0.2.7","timestamp":"16","port":80,"proto":"tcp","rec_type":'
     '"status","data":{"status":"open","reason":"syn-ack","ttl":52}}', [80]),
    ('masscan -oD', '{"ip":"192.0.2.7","port":80,"proto":"tcp","rec_type":"banner","data":'
     '{"service_name":"http","banner":"x"}}', []),
    ('naabu', '{"host":"a.example","ip":"192.0.2.7","port":443,"protocol":"tcp","tls":false}', [443]),
    ('naabu', '{"ip":"192.0.2.7","port":53,"protocol":"udp"}', []),
    ('naabu of old', '{"host":"192.0.2.7","port":{"Port":443,"Protocol":0,"TLS":false}}', [443]),
    ('naabu, IPv6', '{"ip":"2001:db8::1","port":443}', []),
    ('cscan json', '{"time": 1, "module": "", "ip": "192.0.2.7", "port": 80, "events": []}', [80]),
    ('cscan json', '{"time": 1, "module": "rfb", "ip": "192.0.2.7", "port": 80}', []),
    ('cscan json', '{"time": 1, "module": "cscan", "events": []}', []),
    ('cscan csv', '1,192.0.2.7,80,"print",""', [80]), ('cscan csv', '1,192.0.2.7,80,"rfb","a,b"', []),
    ('cscan csv', '1,192.0.2.7,80,"print","","a.example",open', [80]),
    ('cscan csv', '1,192.0.2.7,80,"print","reset","",refused', []),
    ('cscan json', '{"time":1,"ip":"192.0.2.7","port":80,"module":"","events":[],"state":"refused"}', []),
    ('cscan csv', 'time,ip,port,module,text', []), ('zmap', 'saddr,sport', []),
    ('no port', '{"ip":"192.0.2.7"}', None), ('no address', '{"port":80}', None),
    ('a float', '{"ip":"192.0.2.7","port":80.5}', None), ('true', '{"ip":"1.2.3.4","port":true}', None),
    ('no list', '{"ip":"192.0.2.7","ports":5}', None), ('cut', '{"ip":"192.0.2.7","port":80', None),
    ('digits', '{"ip":%s}' % ('9' * 10 ** 6), None), ('deep', '{"a":' * 100000, None), ('XML', '<host endtime="1">', None),
    ('octal', 'open tcp 80 010.0.0.1 1', None), ('a host', 'open tcp 80 a.example 1', None),
]

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
    ('10.0.0.1 - 10.0.0.2', '10.0.0.1-10.0.0.2'), ('10.0.0.7 10.0.0.2', '10.0.0.2 10.0.0.7'),
    ('10.0.*.1-3,::1,2001:db8::/32', ' '.join('10.0.%d.1-10.0.%d.3' % (at, at) for at in range(256))),
]
NO_SPECS = [
    ('nothing-like-this', 'private'), ('no/such/file.txt', 'public'), ('Private', 'default'),
    ('', 'ranges'), ('10.0.0.0/33', '0 to 32'), ('10.0.0.1,', "''"), (',', "''"),
    ('10.0.0.9-10.0.0.1', 'below'), ('010.0.0.1', 'not an address'), ('example.org', 'file'),
    ('private,10.0.0.1', 'file'), ('10.0.0.1 10.0.0.256', 'not an address'),
    ('x' * 200, 'x' * 80 + "'..."),
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

# Network databases: the same networks in each form; what is special, the octets
AS_HEADER = b'network,autonomous_system_number,autonomous_system_organization\n'
AS_ROWS = ('1.0.0.0/24,100,"Amazon.com, Inc."\n1.0.1.0/24,100,"Amazon.com, Inc."\n'
           '1.0.4.0/22,200,"The ""Orange"" Company"\n2001:db8::/32,200,Orange 6\n'
           '1.0.2.0/24,4294967295,Caf\u00e9 S.A.\n1.1.0.0/16,300,amazonas\n').encode()
AS_TSV = ('1.0.0.0\t1.0.1.255\t100\tUS\tAmazon.com, Inc.\n'
          '1.0.2.0\t1.0.2.255\t4294967295\tPL\tCaf\u00e9 S.A.\n'
          '1.0.3.0\t1.0.3.255\t0\tNone\tNot routed\n'
          '1.0.4.0\t1.0.7.255\t200\tPL\tThe "Orange" Company\n'
          '1.1.0.0\t1.1.255.255\t300\tDE\tamazonas\n').encode()
AS_FORMS = [
    ('GeoLite2', AS_HEADER + AS_ROWS), ('short header', b'Network, ASN ,name\n' + AS_ROWS),
    ('no header', AS_ROWS), ('gzipped', gzip.compress(AS_HEADER + AS_ROWS)),
    ('BOM, CRLF, blank line', b'\xef\xbb\xbf' + (AS_HEADER + AS_ROWS).replace(b'\n', b'\r\n\r\n')),
    ('no newline at the end', AS_ROWS.rstrip()), ('iptoasn', AS_TSV),
    ('iptoasn gzipped, IPv6', gzip.compress(AS_TSV + b'2001:db8::\t2001:db8::1\t7\tPL\tSix\n')),
]
AS_CHOICES = [                              # arguments, ranges taken
    (['--as-name', 'amazon'], '1.0.0.0-1.0.1.255 1.1.0.0-1.1.255.255'),
    (['--as-name', '(?-i:Amazon)'], '1.0.0.0-1.0.1.255'),
    (['--as-name', 'amazon[.]com, inc', '^caf.'], '1.0.0.0-1.0.2.255'),
    (['--as-name', 'com', 'amazon'], '1.0.0.0-1.0.1.255 1.0.4.0-1.0.7.255 1.1.0.0-1.1.255.255'),
    (['--as-name', '"orange"', '--as-name', 'azonas$'], '1.0.4.0-1.0.7.255 1.1.0.0-1.1.255.255'),
    (['--as-number', '200'], '1.0.4.0-1.0.7.255'),
    (['--as-number', 'as200,AS4294967295', '300'],
     '1.0.2.0-1.0.2.255 1.0.4.0-1.0.7.255 1.1.0.0-1.1.255.255'),
    (['--as-number', 'As100'], '1.0.0.0-1.0.1.255'),
    (['--as-number', '200', '--as-name', 'caf'], '1.0.2.0-1.0.2.255 1.0.4.0-1.0.7.255'),
    (['--largest', '1'], '1.1.0.0-1.1.255.255'),
    (['--largest', '3'], '1.0.0.0-1.0.1.255 1.0.4.0-1.0.7.255 1.1.0.0-1.1.255.255'),
    (['--largest', '99'], '1.0.0.0-1.0.2.255 1.0.4.0-1.0.7.255 1.1.0.0-1.1.255.255'),
    (['--largest', '1', '--as-number', '100', '200'], '1.0.4.0-1.0.7.255'),
    (['--as-name', 'amazon', '-i', 'some.txt'], '1.0.1.128-1.0.1.255 1.1.0.0-1.1.0.0'),
    (['--as-name', 'amazon', '-b', '-i', 'some.txt'], '1.0.0.0-1.0.1.127 1.1.0.1-1.1.255.255'),
    (['--as-ignore'], '1.0.0.0-1.1.255.255'),
    (['--as-ignore', '--gap-size', '63488'], '1.0.0.0-1.0.7.255 1.1.0.0-1.1.255.255'),
    (['--as-ignore', '--gap-size', '63489'], '1.0.0.0-1.1.255.255'),
    (['--as-ignore', '--gap-size', '256'], '1.0.0.0-1.0.2.255 1.0.4.0-1.0.7.255 '
                                           '1.1.0.0-1.1.255.255'),
    (['--as-ignore', '--as-number', '100'], '1.0.2.0-1.1.255.255'),
    (['--as-ignore', '--as-number', '100', '200'], '1.1.0.0-1.1.255.255'),
    (['--as-ignore', '--as-number', '100', '200', '--island-size', '255'],
     '1.0.2.0-1.0.2.255 1.1.0.0-1.1.255.255'),
    (['--as-ignore', '--largest', '1'], '1.0.0.0-1.0.7.255'),
    (['--as-ignore', '--as-name', 'amazon', '--largest', '1', '--island-size', '0'],
     '1.0.0.0-1.0.7.255'),
]
BLOCKS = (b'network,geoname_id,registered_country_geoname_id,represented_country_geoname_id\n'
          b'1.0.0.0/24,1,2,\n1.0.1.0/24,,1,\n1.0.2.0/23,2,1,\n1.0.4.0/24,3,,\n'
          b'2001:db8::/32,1,1,\n1.0.5.0/24,,,\n1.0.6.0/24,9,,\n')
LOCATIONS = (b'geoname_id,locale_code,continent_code,continent_name,country_iso_code,'
             b'country_name\n'
             b'1,en,EU,Europe,PL,Poland\n2,en,NA,"North America",US,"United ""States"""\n'
             b'3,en,EU,Europe,DE,Germany\n9,en,EU,Europe,,\n4,en,EU,Europe,FR,France\n')
COUNTRY_CHOICES = [                         # arguments, ranges by BLOCKS, ranges by AS_TSV
    (['--country', 'PL'], '1.0.0.0-1.0.1.255', '1.0.2.0-1.0.2.255 1.0.4.0-1.0.7.255'),
    (['--country', 'pl,De'], '1.0.0.0-1.0.1.255 1.0.4.0-1.0.4.255',
     '1.0.2.0-1.0.2.255 1.0.4.0-1.0.7.255 1.1.0.0-1.1.255.255'),
    (['--country', 'PL', '--country', 'US'], '1.0.0.0-1.0.3.255', '1.0.0.0-1.0.2.255 '
                                                                  '1.0.4.0-1.0.7.255'),
    (['--not-country', 'PL'], '1.0.2.0-1.0.4.255', '1.0.0.0-1.0.1.255 1.1.0.0-1.1.255.255'),
    (['--not-country', 'PL', 'US'], '1.0.4.0-1.0.4.255', '1.1.0.0-1.1.255.255'),
    (['--not-country', 'PL', '-i', 'some.txt'], '1.0.4.0-1.0.4.0', '1.0.1.128-1.0.1.255 '
                                                                   '1.1.0.0-1.1.0.0'),
    (['--country', 'US', '--as-db', 'as.csv', '--as-number', '4294967295', '100'],
     '1.0.2.0-1.0.2.255', '1.0.0.0-1.0.1.255'),
]
DATABASE_FILES = {
    'as.csv': AS_HEADER + AS_ROWS, 'as.tsv': AS_TSV, 'blocks.csv': BLOCKS,
    'locations.csv': LOCATIONS, 'some.txt': b'1.0.1.128/25\n1.0.4.0\n1.1.0.0\n',
    'country.tsv': re.sub(b'\t[0-9]+(\t..\\w*)\t.*', b'\\1', AS_TSV), 'empty': b'',
    'six.csv': b'2001:db8::/32,200,Orange 6\n', 'zip.csv': b'PK\3\4....',
    'cut.gz': gzip.compress(AS_ROWS * 9)[:99], 'bad.gz': gzip.compress(AS_ROWS)[:-5] + b'12345',
    'quote.csv': AS_ROWS + b'1.2.3.0/24,5,"x\n' + AS_ROWS, 'other.csv': b'a,b\n1,2\n',
    'huge.csv': b'"' + b'x' * 200000}
DATABASE_FILES.update({
    'dbip-as.csv': b'1.0.0.0,1.0.1.255,100,"Amazon.com, Inc."\n2001:db8::,2001:db8::1,7,Six\n'
                   b'1.0.4.0,1.0.7.255,200,Orange\n',
    'dbip-country.csv': b'1.0.0.0,1.0.1.255,US\n1.0.2.0,1.0.2.255,PL\n1.0.3.0,1.0.3.255,ZZ\n'
                        b'::,1fff::,ZZ\n1.0.4.0,1.0.7.255,PL\n1.1.0.0,1.1.255.255,DE\n',
    'dbip-city.csv': b'1.0.0.0,1.0.1.255,NA,US,x,y,1,2\n1.0.2.0,1.0.2.255,EU,PL,x,"y, z",1,2\n'
                     b'1.0.4.0,1.0.7.255,EU,PL,x,y,1,2\n1.1.0.0,1.1.255.255,EU,DE,x,y,1,2\n',
    'ip2location.csv': b'"0","16777215","-","-"\r\n"16777216","16777727","US","United States"\r\n'
                       b'"16777728","16777983","PL","Poland"\r\n"16778240","16779263","PL","Poland"\r\n'
                       b'"16842752","16908287","DE","Germany"\r\n"281470698520576","281470698520831",'
                       b'"DE","Germany"\r\n',
    'ip2location-as.csv': b'"0","16777215","0.0.0.0/8","-","-"\n"16777216","16777727","1.0.0.0/23","100",'
                          b'"Amazon.com, Inc."\n"16778240","16779263","1.0.4.0/22","200","Orange"\n',
    'delegated': b'#a remark\n2.3|ripencc|1700000000|7|19830705|20231114|+0000\n'
                 b'ripencc|*|ipv4|*|4|summary\nripencc|*|asn|*|1|summary\nripencc|*|ipv6|*|1|summary\n'
                 b'ripencc|US|ipv4|1.0.0.0|512|20010101|allocated|x\n'
                 b'ripencc|PL|ipv4|1.0.2.0|256|20010101|assigned\n'
                 b'ripencc||ipv4|1.0.3.0|256||available\nripencc|PL|asn|5617|1|19960101|allocated\n'
                 b'ripencc|PL|ipv4|1.0.4.0|1024|20010101|allocated|x\n'
                 b'ripencc|PL|ipv6|2001:db8::|32|20010101|allocated|x\n'
                 b'ripencc|DE|ipv4|1.1.0.0|65536|20010101|allocated|x\n',
    'x.mmdb': b'\0\0\1\0\0\2' * 40, 'x.tar': b'a' + b'\0' * 256 + b'ustar', 'x.json': b' {"a": 1}',
    'x.html': b'<!doctype html>\n'})
NO_DATABASES = [                            # arguments, status, what the line on stderr says
    (['--as-db', 'as.csv'], 2, '--as-name'), (['--as-name', 'x'], 2, '--as-db'),
    (['--as-number', '5'], 2, '--as-db'), (['--largest', '5'], 2, '--as-db'),
    (['--as-ignore'], 2, '--as-db'), (['--list-as'], 2, '--as-db'),
    (['--as-db', 'as.csv', '--largest', '0'], 2, "'0'"),
    (['--as-db', 'as.csv', '--largest', 'x'], 2, "'x'"),
    (['--as-db', 'as.csv', '--largest', '1', '--gap-size', '9'], 2, '--as-ignore'),
    (['--as-db', 'as.csv', '--largest', '1', '--island-size', '9'], 2, '--as-ignore'),
    (['--as-db', 'as.csv', '--as-ignore', '--gap-size', '0'], 2, "'0'"),
    (['--as-db', 'as.csv', '--as-ignore', '--island-size', '-1'], 2, '--island-size'),
    (['--as-db', 'as.csv', '--as-ignore', '--island-size', 'x'], 2, "'x'"),
    (['--as-db', 'as.csv', '--list-as', '-i', 'some.txt'], 2, '--list-as'),
    (['--as-db', 'as.csv', '--list-as', '--list'], 2, '--list-as'),
    (['--as-db', 'as.csv', '--largest', '1', '-b'], 2, '-b'),
    (['--country-db', 'as.tsv', '--country', 'PL', '-b'], 2, '-b'),
    (['--country', 'PL'], 2, '--country-db'), (['--not-country', 'PL'], 2, '--country-db'),
    (['--country-db', 'blocks.csv', 'locations.csv'], 2, '--not-country'),
    (['--country-db', 'as.tsv', '--country', 'PL', '--not-country', 'US'], 2, '--not-country'),
    (['--country-db', 'blocks.csv', 'locations.csv', 'x', '--country', 'PL'], 2, 'OUTPUT'),
    (['--as-db', 'missing', '--largest', '1'], 1, "'missing': No such file"),
    (['--as-db', '.', '--largest', '1'], 1, "'.': Is a directory"),
    (['--as-db', 'empty', '--largest', '1'], 1, "'empty': no networks"),
    (['--as-db', 'six.csv', '--largest', '1'], 1, "'six.csv': no networks of IPv4, 1 of IPv6"),
    (['--as-db', 'zip.csv', '--largest', '1'], 1, "'zip.csv': a zip"),
    (['--as-db', 'cut.gz', '--largest', '1'], 1, "'cut.gz': "),
    (['--as-db', 'bad.gz', '--largest', '1'], 1, "'bad.gz': "),
    (['--as-db', 'quote.csv', '--largest', '1'], 1, 'quote.csv:7: '),
    (['--as-db', 'huge.csv', '--largest', '1'], 1, 'huge.csv:1: '),
    (['--as-db', 'other.csv', '--largest', '1'], 1, "other.csv:1: 'a,b'"),
    (['--as-db', 'blocks.csv', '--largest', '1'], 1, 'blocks.csv:1: '),
    (['--as-db', 'country.tsv', '--largest', '1'], 1, "country.tsv: iptoasn's networks by country"),
    (['--as-db', 'locations.csv', '--largest', '1'], 1, "locations.csv:1: GeoLite2's locations"),
    (['--as-db', 'blocks.csv', '--largest', '1'], 1, "GeoLite2's networks by country: it has no AS"),
    (['--as-db', 'dbip-country.csv', '--largest', '1'], 1, "DB-IP's networks by country: it has no"),
    (['--as-db', 'ip2location.csv', '--largest', '1'], 1, "IP2Location's networks by country"),
    (['--as-db', 'delegated', '--largest', '1'], 1, "delegated: an RIR's delegated file"),
    (['--country-db', 'dbip-as.csv', '--country', 'PL'], 1, "DB-IP's networks by AS: it has no"),
    (['--country-db', 'ip2location-as.csv', '--country', 'PL'], 1, 'it has no countries; --as-db'),
    (['--country-db', 'as.csv', '--country', 'PL'], 1, 'it has no countries; --as-db takes it'),
    (['--country-db', 'locations.csv', '--country', 'PL'], 1, "locations: BLOCKS was expected first"),
    (['--country-db', 'delegated', 'locations.csv', '--country', 'PL'], 1, 'needs no second file'),
    (['--as-db', 'x.mmdb', '--largest', '1'], 1, "'x.mmdb': binary, such as .mmdb"),
    (['--as-db', 'x.tar', '--largest', '1'], 1, "'x.tar': a tar archive"),
    (['--as-db', 'x.json', '--largest', '1'], 1, "'x.json': JSON; CSV"),
    (['--as-db', 'x.html', '--largest', '1'], 1, "'x.html': HTML or XML; CSV"),
    (['--as-db', 'as.csv', '--as-name', 'orange', 'x.y.z'], 1,
     "--as-name: 'x.y.z': no such AS in as.csv"),
    (['--as-db', 'as.csv', '--as-name', 'not routed'], 1, "'not routed': no such AS"),
    (['--as-db', 'as.csv', '--as-name', '('], 1, "'(': no regular expression"),
    (['--as-db', 'as.csv', '--as-number', '100', '7'], 1,
     '--as-number: 7: no such AS in as.csv'),
    (['--as-db', 'as.csv', '--as-number', '0'], 1, "'0': an AS number"),
    (['--as-db', 'as.csv', '--as-number', '4294967296'], 1, "'4294967296': an AS number"),
    (['--as-db', 'as.csv', '--as-number', '5', 'poland'], 1, "'poland': an AS number"),
    (['--as-db', 'as.csv', '--as-number', '200', '-i', 'one.txt'], 1, 'no addresses'),
    (['--country-db', 'blocks.csv', '--country', 'PL'], 1, "'blocks.csv': LOCATIONS"),
    (['--country-db', 'as.tsv', 'x', '--country', 'PL'], 1, "'as.tsv': iptoasn's networks by AS and country needs"),
    (['--country-db', 'locations.csv', 'blocks.csv', '--country', 'PL'], 1, "locations.csv: GeoLite2's locations"),
    (['--country-db', 'as.csv', 'locations.csv', '--country', 'PL'], 1, 'as.csv: networks by AS: it has no countries'),
    (['--country-db', 'blocks.csv', 'locations.csv', '--country', 'Poland'], 1, "'Poland'"),
    (['--country-db', 'blocks.csv', 'locations.csv', '--not-country', 'PL', 'UK'], 1,
     "--not-country: 'UK': not in locations.csv"),
    (['--country-db', 'country.tsv', '--country', 'FR'], 1, "'FR': not in country.tsv"),
    (['--country-db', 'blocks.csv', 'locations.csv', '--country', 'FR'], 1, 'no addresses'),
]
NO_ROWS = [                                 # a row, what the line on stderr says of it
    ('1.2.3.0/33,5,x', 'not a network'), ('1.2.3.0,5,x', 'not a network'),
    ('1.2.3.0/,5,x', 'not a network'), ('1.2.3.0/024,5,x', 'not a network'),
    ('1.2.3/24,5,x', 'not a network'), ('01.2.3.0/24,5,x', 'not a network'),
    ('1.2.3.0/24 ,5,x', 'not a network'), ('1.2.3.256/24,5,x', 'not a network'),
    ('1.2.3.0\0/24,5,x', ''), ('\u0661.2.3.0/24,5,x', 'not a network'), (',5,x', 'not a network'),
    ('2001:db8::g/32,5,x', 'not a network'), ('network,asn,name', 'not a network'),
    ('1.2.3.0/24,-5,x', "'-5'"), ('1.2.3.0/24,4294967296,x', "'4294967296'"),
    ('1.2.3.0/24,x,x', "'x'"), ('1.2.3.0/24,5', 'too early'), ('1.2.3.0/24', 'too early'),
    ('"1.2.3.0"/24,5,x', "'\"'"), ('\x1b[2J', 'not a network'), ('x' * 99999, 'not a network'),
]
NO_TSV_ROWS = [
    ('1.2.3.0\t1.2.3.256\t5\tPL\tx', 'not first and last'),
    ('1.2.3.9\t1.2.3.8\t5\tPL\tx', 'not first'), ('1.2.3.0/24\t5\tx', 'not first'),
    ('1.2.3.0', 'not first'), ('1.2.3.0\t1.2.3.255\tx\tPL\tx', "'x'"),
    ('1.2.3.0\t1.2.3.255\t5\tPL', 'too early'), ('2001:db8::\t1.2.3.4\t5\tPL\tx', 'not first'),
]

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
JSON_TARGETS = [                            # string of code 0, (ip, port) in JSON
    ('1.2.3.4:80', ('1.2.3.4', 80)), ('255.249.199.0:65535', ('255.249.199.0', 65535)),
    ('x11://10.0.0.1:6000', ('10.0.0.1', 6000)), ('1.2.3.4:22 SSH-2.0-x', ('1.2.3.4', 22)),
    ('1.2.3.4:0', None), ('1.2.3.4:65536', None), ('1.2.3.4:123456', None), ('1.2.3.4', None),
    ('1.2.3:80', None), ('1.2.3.4.:80', None), ('1.2.3.256:80', None), ('01.2.3.4:80', None),
    ('11.2.3.4.5:80', None), ('1234:80', None), ('at 1.2.3.4:80', None), ('://1.2.3.4:80', None),
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


class Overlay:
    """A module with some of its functions replaced."""

    def __init__(self, module, **functions):
        self.module = module
        self.__dict__.update(functions)

    def __getattr__(self, name):
        return getattr(self.module, name)


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

    def serving(self, host='127.0.0.1', greeting=b'', backlog=100):
        """A target that accepts again and again: without accept() the queue fills up."""
        listener = self.listener(host, backlog=backlog)

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


METRICS_REAL = zlib.decompress(bytes.fromhex(     # written by the original
    '78da55d37f6494011cc7f1bbaba559dddaefadedf6abad966cd2145922ad9824456449d358fb2369c549b248'
    '2c69892c92562c264bbf5cd6c6c422699551d248ee662bfab57b7ed532d1becff37daecfe7e119afe7f33ccf'
    'b99b77f98240203ef86379408ec5f367fc8d225d30a5c810cc299608b27f7a582aa85184059b159982bd8a65'
    '82238a2cc15945b6e09a2247705f912b78aec8137c54e40b2c4581207dc643a1a05c5124d8a090bff19d8a62'
    '41aba244704a11115c56940afa1565821145b9e0ada242f055512908263dac101428aa04758a6a41a362a5a0'
    '59b14ad0a1a8993fa77c0c87bc0f4ef817046df3e724de114aa98fd41dc23ba3b41d243591eae9b912dad248'
    '3341bcf34310b751d200a987d4496a27ed263590aa4861d2ef002a417a498a917a495da463a4e6007ef7adb4'
    'd5920ae84e3942d32839e25d49a8b03709153e4e42856349a83091840a67935061a60115561b50e126032adc'
    '634085ed065478c6800aaf1a50e15d032a7c664085130654386340858b4ca830624285f52654d86442852d26'
    '541835a1c26e132abc6d4285c32654386e42855f4ca8f0af0915e65a50e11aeb7f85f12d8ad592a48f713f49'
    'ff422a49ff8297a4af3ed2455294d412c2b734d1b68e54424a237949fa9a08e2364a1a20f5903a49edf4ce3d'
    'b43590aa4861d26c0095208d916201fcbc1bb475913a48cda4467a4b2d299feef49244b949eeb320c9a31624'
    '79ce8224af5b90e4230b927c6141929f2c48d2b120c90c1b92acb421c98d3624b9cb8624db6c48f2b40d495e'
    'b121c93b3624f9d48624dfdb90e4771b925ce84092450e24b9d68124b73b90e40107923ce14092171c48f296'
    '03490e3a90e46b07929c7220c9390792ccfa0549fa4825e95f101c967fb77f61c84dc4575f08b76edaa2ee96'
    '172a76d51a96ed5e8ea7cf65a871f915521a22f5b97aa0bae43ef75075d2dd7c1da26d0769bdab98aa8294e1'
    'bee589ea4fa96cbe2649af4831d2cd527ccb79da8e93f693b6d17375b415d216a4ed5b04b77711dc4648fda2'
    '695ffef10f5710070d'))
METRICS_REAL_TEXT = '''\
duration     9.73 s  connect timeout 800 ms
packets          96  mean 9.9/s, most in a second 45
answers          96  100 % of packets
  open           74  77.1 % of answers
  not open       22  22.9 % of answers
delay        517 ms  median; 90 % within 7,969 ms, 99 % within 8,166 ms, longest 8,166 ms
timed out         0  0 % of packets
epoll calls       3  0.31/s; 32 events a call; 0 % had none
sending      2.14 s  22.0 % of the time; 3 phases of 713 ms and 32 packets
expiry          0 s  0 % of the time; 3 phases of 0 ms and 0 sockets
'''
METRICS_RECORDS = {0xe0: 'BQi', 0xe1: 'BQii', 0xe2: 'BQiB', 0xe3: 'BQi', 0xe4: 'BQii',
                   0xe5: 'BQii'}


def metrics_records(octets, order='='):
    """A metrics file, one record after the other -> (connect timeout, [fields])."""
    records, at = [], 4
    while at < len(octets):
        shape = struct.Struct(order + METRICS_RECORDS[octets[at]])
        records.append(shape.unpack_from(octets, at))
        at += shape.size
    return struct.unpack_from(order + 'i', octets)[0], records


def metrics_totals(octets):
    """A metrics file -> how many were sent, failed, were open, closed, timed out."""
    totals = collections.Counter()
    for tag, _, *rest in metrics_records(octets)[1]:
        if tag == 0xe0:
            totals['failed' if rest[0] == -2 else 'sent'] += 1
        elif tag == 0xe2:
            totals['open' if rest[1] & 2 else 'closed'] += 1
        elif tag == 0xe3:
            totals['timeouts'] += 1
    return totals


def metrics_file(*records, timeout=800, order='='):
    """Records -> octets of a metrics file."""
    return struct.pack(order + 'i', timeout) + b''.join(
        struct.pack(order + METRICS_RECORDS[record[0]], *record) for record in records)


class StubCrew:
    """Takes results; says that it is full when told."""
    closed, failed = False, ''

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

    log = None


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
                ranges = cscan.load_ranges(self.path('r.txt', data), '-f')
                if 'csw' in name:
                    self.assertEqual(ranges, cscan.unpack_csw(data, 't'))
                else:
                    self.assertEqual(ranges, pairs(text))

    def test_lists(self):
        """What published lists have besides a range a line."""
        for text, ranges, names, ipv6 in LISTS:
            with self.subTest(text=text):
                reader = cscan.RangeReader([], True)
                reader.add_lines(['# first', text], 't')
                reader.check()
                self.assertEqual(reader.merged(), pairs(ranges))
                self.assertEqual(reader.names, [(name, 't:2') for name in names.split()])
                self.assertEqual(reader.ipv6, ipv6)
                self.assertEqual(len(reader.notes), bool(ipv6))

    def test_long_lines(self):
        """Each step is linear: a line of 300,000 characters takes no time."""
        for line in (' ' * 300000 + 'x', '-' * 300000, ' - ' * 100000, 'a' * 300000 + '!',
                     'a.' * 150000 + '!', '1.' * 150000, ',' * 300000 + 'x', ':' * 300000,
                     'name:' * 60000 + ' x!', '0-' * 150000):
            reader, begin = cscan.RangeReader([], True), time.process_time()
            reader.add_lines(['1.2.3.4' + line, line], 't')
            with self.subTest(line=line[:9]):
                self.assertLess(time.process_time() - begin, 2)
                self.assertLess(len(reader.bad[0]) if reader.bad else 0, 250)
        for text in 'Host: 1.2.3.4 (' + ')' * 300000, '1.2.3.4' + ' ' * 300000 + 'x', '5,1.2.3.4' * 30000:
            begin = time.process_time()
            self.assertIsNone(cscan.line_results(text))
            self.assertLess(time.process_time() - begin, 2)

    def test_spread(self):
        """Octet ranges against each address in turn."""
        rng = random.Random(SEED)
        for _ in range(200):
            octets = [sorted(rng.choice(((0, 255), (7, 7), (254, 255), (0, 2), (3, 9)))
                             if place > 1 else (5, rng.choice((5, 6)))) for place in range(4)]
            text = '.'.join('*' if pair == [0, 255] and rng.random() < 0.5 else '%d-%d' % tuple(pair)
                            for pair in octets)
            expected = [int.from_bytes(four, 'big') for four in itertools.product(
                *(range(low, high + 1) for low, high in octets))]
            with self.subTest(text=text, seed=SEED):
                self.assertEqual(members(cscan.parse_range_lines([text], 't')), set(expected))
        self.assertEqual(len(cscan.parse_spread('1.*.*.0-5', 't')), 1 << 16)

    def test_plain_names(self):
        """Hosts without name: are told how to be resolved; a mistake in all lines of one list."""
        reader = cscan.RangeReader([])
        reader.add_lines(['10.0.0.1 lab.example.org'], 't')
        self.assert_refused(["t:1: 'lab.example.org'", '--resolve', 'name:HOST'], reader.check)
        self.assertEqual((reader.merged(), reader.names), ([], []))     # the line is left out whole

    def test_json_lists(self):
        for whose, text, ranges, ipv6 in JSON_LISTS:
            with self.subTest(whose):
                reader = cscan.RangeReader([], True)
                reader.read(self.path('j', text.encode()), '-f')
                self.assertEqual((reader.merged(), reader.ipv6), (pairs(ranges), ipv6))
                self.assertRegex(reader.notes[0], r': JSON: taken from .*: [0-9]+; %d of' % ipv6)
                reader.check()
        for text, part in NO_JSON_LISTS:
            with self.subTest(text[:80]):
                self.assert_refused([self.path('j'), part], cscan.load_ranges,
                                    self.path('j', text.encode()), '-f')

    def test_json_note(self):
        """Which keys were taken, how many of each, and what was not."""
        reader = cscan.RangeReader()
        text = '{"a": [{"ip_prefix": "1.2.3.4/32"}, {"ip_prefix": "1.2.3.8"}, {"cidr": "::/0"}]}'
        reader.add_json(text, 't')
        self.assertEqual(sorted(re.findall('[a-z_]+: [0-9]+', reader.notes[0])),
                         ['cidr: 0', 'ip_prefix: 2'])
        self.assertIn('; 1 of IPv6', reader.notes[0])

    def test_bad_lines(self):
        """All are counted, ten are named, each cut; without them if that is wanted."""
        for count, lines in ((1, 1), (2, 3), (10, 11), (500, 11)):
            reader = cscan.RangeReader()
            reader.add_lines(['10.0.0.1 ' + 'x' * 10 ** 4, '10.0.0.2'] * count, 't')
            with self.subTest(count=count), self.assertRaises(UserError) as caught:
                reader.check()
            found = str(caught.exception).split('\n')
            self.assertEqual(len(found), lines)
            self.assertLess(max(map(len, found)), 200)
            self.assertTrue(found[0].startswith("t:1: '%s'..." % ('x' * 80)), found[0])
            self.assertEqual(count > 1, found[-1] == '%d bad lines in all' % count)
            reader.check(skip_bad=True)
            self.assertRegex(reader.notes[0], ': %d bad lines? left out' % count)
            self.assertEqual(reader.merged(), pairs('10.0.0.2'))

    def test_blocks(self):
        """Lines in blocks or one by one, in both files: the same ranges, notes and messages."""
        rng = random.Random(SEED)
        odd = [line for line, _, _ in RANGES] + [line for line, _ in NO_RANGES] + [
            line for line, _, _, _ in LISTS] + ['1.2.3.4\0', '1.2.3', '\ud800', ' 1.2.3.4', '']
        for share in 0, 0.01, 0.5:
            lines = [rng.choice(odd) if rng.random() < share else
                     cscan.ip_text(rng.randrange(ALL >> 24, ALL)) for _ in range(1500)]
            results = []
            for tool, block in ((cscan, 64), (cscan, 1), (cscan, 7), (compile_targets, 64)):
                with patched(tool, LIST_BLOCK=block):
                    reader = tool.RangeReader()
                    reader.add_lines(lines, 't')
                    reader.check(skip_bad=True)
                    results.append((reader.merged(), reader.notes, reader.bad, reader.bad_count))
            with self.subTest(seed=SEED, share=share):
                self.assertEqual(results[1:], results[:1] * 3)
                self.assertEqual(bool(results[0][2]), share > 0)

    def test_single_ranges(self):
        """Addresses by themselves are merged like ranges: twice the same, neighbours, both ends."""
        rng = random.Random(SEED)
        for count in 0, 1, 2, 5, 40:
            for _ in range(20):
                ips = [rng.choice((0, ALL - 40)) + rng.randrange(40) for _ in range(count)]
                packed = b''.join(each.to_bytes(4, 'big') for each in ips)
                self.assertEqual(cscan.single_ranges(packed),
                                 cscan.merge_ranges([(each, each) for each in ips]))

    def test_no_octal(self):
        """010.0.0.1 is 8.0.0.1 to inet_aton(), and no address here, whichever way it is read."""
        for line in '010.0.0.1', '1.2.3.04', '0x1.2.3.4', '1.2.3', '16909060', '1.2.3.4 ':
            for block in 1, 64:
                with self.subTest(line=line), patched(cscan, LIST_BLOCK=block):
                    if line.endswith(' '):
                        self.assertEqual(cscan.parse_range_lines([line], 't'), pairs('1.2.3.4'))
                    else:
                        self.assert_refused([repr(line)], cscan.parse_range_lines, [line], 't')

    def test_line_numbers(self):
        path = self.path('r.txt', b'\xef\xbb\xbf# a\r\n\r\n1.2.3.4\r\n1.2.3\r\n')
        self.assert_refused([path + ":4: '1.2.3'"], cscan.load_ranges, path, '-f')
        path = self.path('r.txt', b'1.2.3.4\n' * 200 + b'1.2.3\n')
        self.assert_refused([path + ":201: '1.2.3'"], cscan.load_ranges, path, '-f')

    def test_unreadable(self):
        missing = self.path('missing')
        for path, part in ((missing, 'No such file'), (self.folder, 'directory')):
            self.assert_refused(['-f', repr(path), part], cscan.RangeReader().read, path, '-f')

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

    def test_port_zero(self):
        """Left out of a range, with a note."""
        notes = []
        cscan.parse_portspec('80,0-5', notes=notes)
        self.assertEqual(notes, ["argument -p: '0-5': port 0 skipped"])

    def test_services(self):
        for name, port in cscan.SERVICES.items():
            self.assertTrue(cscan.PORTS.fullmatch(name) and 1 <= port <= 65535, name)
        self.assertEqual(len(set(cscan.TOP_PORTS)), len(cscan.TOP_PORTS))
        self.assertTrue(all(1 <= port <= 65535 for port in cscan.TOP_PORTS))

    def test_port_files(self):
        """A .csp or text, told apart by its octets."""
        csp = cscan.pack_csp([(80, 2), (443, 1)], 't')
        for data, ports in ((csp, [(80, 2), (443, 1)]), (b'80:2\n443', [(80, 2), (443, 1)]),
                            (b'\xef\xbb\xbf# a\r\nssh, 80:2,\r\n\r\n8000-8001 ; b\r\n',
                             [(22, 1), (80, 2), (8000, 1), (8001, 1)])):
            with self.subTest(data=data):
                self.assertEqual(cscan.read_ports(self.path('p', data), '-pf'), ports)
        for data, part in ((b'', 'no ports'), (b'# a\n', 'no ports'), (b'80\n1 nope\n', ":2: '1,nope'"),
                           (csp[:-1], 'cut'), (b'1:4294967296\n2', 'weights')):
            with self.subTest(data=data):
                self.assert_refused([self.path('p'), part], cscan.read_ports,
                                    self.path('p', data), '-pf')

    def test_references(self):
        for name, text, spec, csw, csp in REFERENCES:
            with self.subTest(file=name):
                csw, csp = bytes.fromhex(csw), bytes.fromhex(csp)
                ports = cscan.parse_portspec(spec)
                ranges = cscan.parse_range_lines(text.decode().splitlines(), 't')
                self.assertEqual(cscan.pack_csw(ranges, 't'), csw)
                self.assertEqual(cscan.unpack_csw(csw, 't'), ranges)
                self.assertEqual(cscan.load_ranges(self.path('r', csw), '-f'), ranges)
                self.assertEqual(cscan.pack_csp(ports, 't'), csp)
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
                                   (ports, cscan.pack_csp(ports, 't'))):
                    total = sum(count for _, count in ports) if rows is ports else (
                        cscan.count_addresses(ranges))
                    num, top, mask = struct.unpack_from('<III', data)
                    self.assertEqual((num, top, len(data)), (len(rows), total - 1, 12 + 8 * num))
                    self.assertTrue(mask & (mask + 1) == 0 and (mask + 1) // 2 < total <= mask + 1)
                self.assertEqual(cscan.unpack_csw(cscan.pack_csw(ranges, 't'), 't'), ranges)
                self.assertEqual(cscan.unpack_csp(cscan.pack_csp(ports, 't'), 't'), ports)

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
                self.assert_refused(['x.bin: '], cscan.pack_csp, rows, 'x.bin')


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
    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
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
            for least in 1, sys.maxsize:
                with self.subTest(total=total, least=least), patched(cscan, COLUMNS_MIN=least):
                    self.assertEqual(list(map(list, cscan.uniform(total, iter(words)))), blocks)

    def test_columns(self):
        """Addresses of many are what they are of each: digits, lanes, blocks of any size."""
        draw = random.Random(SEED)
        octets = 0, 1, 9, 10, 99, 100, 101, 199, 200, 255
        ips = [int.from_bytes(four, 'big') for four in itertools.product(octets, repeat=4)]
        draw.shuffle(ips)
        for least in 1, 64, sys.maxsize:
            for ranges in ([(0, ALL - 1)], [(5, 5), (7, ALL - 1)], [(ALL - 9, ALL - 1)]):
                space = cscan.Space(ranges, [(80, 1)])
                for size in 1, 63, 64, cscan.DRAW_BLOCK:
                    indexes = [ip % space.addresses for ip in ips[:size]]
                    expected = [cscan.ip_text(5 if len(ranges) > 1 and not index else
                                              index + ranges[-1][0] - (len(ranges) > 1))
                                for index in indexes]
                    with patched(cscan, COLUMNS_MIN=least):
                        self.assertEqual(space.hosts(indexes), expected)
                        indexes = cscan.array.array('I', indexes)
                        self.assertEqual(space.hosts(indexes), expected)

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

    def test_columns(self):
        """Many at once or one by one, over the edges of blocks: the same targets in the same order."""
        sizes = [1, 4, 3, 2]
        hosts, ports = [str(number) for number in range(10)], list(range(10))
        for count in range(1, 13):
            with self.subTest(count=count):
                edges = [0] + list(itertools.accumulate(sizes))
                source = cscan.Columns((hosts[first:last], ports[first:last])
                                       for first, last in zip(edges, edges[1:]))
                self.assertEqual(next(source), ('0', 0))
                for at in range(1, 14, count):
                    self.assertEqual(source.take(count),
                                     (hosts[at:at + count], ports[at:at + count]))
                self.assertEqual((list(source), source.take(1)), ([], ([], [])))

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

    def test_published_lists(self):
        """Bad lines: all named, or left out with --skip-bad, but never those of -xf."""
        path = self.path('list', b'\xef\xbb\xbf; a list\r\n10.0.0.1-3 ; x\r\nbad\r\n2001:db8::1\r\n'
                                 b'10.0.0.9,worse\r\n')
        done = run_tool('cscan.py', ['-l', '-f', path, '--once'])
        self.assertEqual((done[0], done[1], done[2].count('cscan: ')), (1, '', 3), done[2])
        for part in (":3: 'bad': ", ":5: 'worse': ", '2 bad lines in all'):
            self.assertIn(part, done[2])
        listed, note = self.list_targets(['-f', path, '-p', 'ssh', '--once', '--skip-bad'])
        self.assertEqual(sorted(listed), ['10.0.0.%d:22' % at for at in (1, 2, 3)])
        self.assertIn('2 bad lines left out, the first: %s:3' % path, note)
        self.assertIn('1 target of IPv6 passed over', note)
        done = run_tool('cscan.py', ['-l', '-f', '10.0.0.1', '-xf', path, '--skip-bad'])
        self.assertEqual(done[:2], (1, ''))
        self.list_targets(['-f', '10.0.0.1', '-xf', os.devnull, '--once'])
        self.list_targets(['-f', '10.0.0.1', '-xf', '2001:db8::/32', '--once'])
        _, out, _ = run_tool('compile_targets.py', ['-i', path, '--skip-bad', '--list-ranges'])
        self.assertEqual(out, '10.0.0.1-10.0.0.3\n')

    def test_resolve(self):
        listed, note = self.list_targets(['-f', 'localhost,10.0.0.9', '--resolve', '--once'])
        self.assertEqual(sorted(listed), ['10.0.0.9:80', '127.0.0.1:80'])
        self.assertIn('name:localhost = 127.0.0.1', note)

    def test_top_ports(self):
        listed, _ = self.list_targets(['-f', '10.0.0.9', '--top-ports', '3', '--once'])
        self.assertEqual(sorted(listed), ['10.0.0.9:%d' % port for port in (22, 443, 80)])
        listed, note = self.list_targets(['-f', '10.0.0.9', '-p', '0-2', '--once'])
        self.assertEqual(sorted(listed), ['10.0.0.9:1', '10.0.0.9:2'])
        self.assertIn('port 0 skipped', note)
        for words in ['-p', '-'], ['-p=-']:
            listed, _ = self.list_targets(['-f', '10.0.0.9', *words, '--once', '-q'])
            self.assertEqual(len(listed), 65535)

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


# ==== Pairs ===========================================================================

class Pairs(Case):
    """--pairs: a space of its own, by index."""

    def setUp(self):
        super().setUp()
        self.hosts = Hosts(self)
        self.base = ['-q', '-b', next(FREE_PORT), '-bt', 50, '-t', 300]

    def space(self, keys):
        return cscan.PairSpace(cscan.array.array('I', [key >> 16 for key in keys]),
                               cscan.array.array('H', [key & 65535 for key in keys]))

    def test_read(self):
        """Forms of -x, comments, duplicates once; IPv6 counted, bad lines named or left out."""
        text = ('; a\n1.2.3.4:80\n1.2.3.4 80 ; again\n5.6.7.8,443 # x\nopen tcp 22 0.0.0.0 1\n'
                '[2001:db8::1]:80\n255.255.255.255:65535,\n{"ip":"1.2.3.4","port":9}\n')
        expected = ['0.0.0.0:22', '1.2.3.4:9', '1.2.3.4:80', '5.6.7.8:443', '255.255.255.255:65535']
        for bad in '', '1.2.3.4\n', '1.2.3.4:0\n1.2.3.4:65536\nx\n':
            console = StubConsole()
            path = self.path('p', (text + bad).encode())
            with self.subTest(bad=bad):
                found = cscan.read_pairs(path, True, console)
                self.assertEqual(['%s:%d' % (cscan.ip_text(key >> 16), key & 65535)
                                  for key in found], expected)
                self.assertEqual(len(console.notes), 1 + bool(bad))
                self.assertEqual(console.notes[-1], '1 target of IPv6 passed over')
                if bad:
                    with self.assertRaises(UserError) as caught:
                        cscan.read_pairs(path, False, console)
                    self.assertIn(path + ':9: ', str(caught.exception))

    def test_orders(self):
        """Each pair once in every order, in shards too; draws are fair and of nothing else."""
        keys = [at << 20 | 1 << at % 16 for at in range(1000)]
        space = self.space(keys)
        expected = [('%s' % cscan.ip_text(key >> 16), key & 65535) for key in keys]
        for seed in 0, SEED:
            order = list(space.once(seed))
            self.assertEqual(sorted(order), sorted(expected))
            self.assertNotEqual(order, expected)
            parts = [list(space.once(seed, space.share((index, 3)))) for index in range(3)]
            self.assertEqual(sorted(sum(parts, [])), sorted(expected))
        small = self.space(keys[:3])
        counts = collections.Counter(itertools.islice(small.draws(1), 3000))
        self.assertEqual(set(counts), set(expected[:3]))
        self.assertGreater(min(counts.values()), 800)
        self.assertEqual((small.text(), space.size), ('3 pairs', 1000))
        self.assertEqual(len({self.space(some).digest() for some in (
            keys[:3], keys[:4], keys[1:4], [key ^ 1 for key in keys[:3]])}), 4)

    def write(self, open_count=5, closed=60):
        """A file of pairs -> its path, those that are open."""
        found = {'%s:%d' % self.hosts.open('127.0.91.%d' % at) for at in range(open_count)}
        port = self.hosts.open('127.0.92.1')[1]             # open elsewhere, not at these
        lines = sorted(found) + ['127.0.93.%d:%d' % (at, port) for at in range(closed)]
        return self.path('pairs.txt', ''.join(line + '\n' for line in lines).encode()), found

    def test_scan(self):
        """No pair that was not named is probed, each that was is, alone and in workers."""
        path, found = self.write()
        for options in ([], ['-w', 2], ['--retries', 1], ['-xf', '127.0.93.0/25']):
            with self.subTest(options=options):
                status, out, err = run('cscan.py', *self.base, '--pairs', path, '--once', *options)
                self.assertEqual((status, set(out.split())), (0, found), err)
        parts = [run('cscan.py', *self.base, '--pairs', path, '--once', '--shard', part)[1].split()
                 for part in ('1/2', '2/2')]
        self.assertEqual(sorted(parts[0] + parts[1]), sorted(found))
        status, out, _ = run('cscan.py', *self.base, '--pairs', path, '-l', '-n', 9, '--seed', 1)
        self.assertEqual((status, len(out.split())), (0, 9))

    def test_state(self):
        """Begun, ended by -n and gone on with; another list is refused."""
        path, found = self.write()
        state, results = self.path('state'), self.path('r.cba')
        args = [*self.base, '--pairs', path, '--once', '--seed', 5, '--state', state, '-o', results]
        process = start('cscan.py', *args, '-r', 20)
        wait_until(lambda: os.path.exists(state) and os.path.getsize(state))
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        with open(path, 'ab') as file:
            file.write(b'127.0.93.200:9\n')
        done = run('cscan.py', '-q', '--resume', state)
        self.assertEqual(done[0], 1)
        self.assertIn('what --pairs names has changed since the scan began: 65 pairs then, 66', done[2])
        self.path('pairs.txt', self.read('pairs.txt').replace(b'127.0.93.200:9\n', b''))
        self.assertEqual(run('cscan.py', '-q', '--resume', state)[0], 0)
        _, out, _ = run('cba_reader.py', '-r', '--unique', results)
        self.assertEqual(set(out.split()), found)

    def test_mistakes(self):
        path = self.path('p', b'1.2.3.4:80\n')
        for args, status, part in (
                (['-p', '80'], 2, 'goes without -f, -p, -pf'), (['-f', '1.2.3.4'], 2, 'goes without'),
                (['-pf', path], 2, 'goes without'), (['--top-ports', '5'], 2, 'goes without'),
                (['-x'], 2, '-x: --pairs goes with a scan only'),
                (['-l', '-q', '-xf', '1.0.0.0/8'], 1, 'no addresses are left')):
            with self.subTest(args=args):
                self.check_stop(['--pairs', path] + args, status, part)
        self.check_stop(['-l', '--pairs', self.path('empty', b'# none\n')], 1, 'no ip:port in there')

    def check_stop(self, args, status, part):
        """cscan.py in this process; its lines go to a descriptor, not to sys.stderr."""
        lines = []
        with patched(cscan, complain=lines.append):
            done = call(cscan.main, args)
        self.assert_stop((done[0], done[1], ''.join(lines)), status, part)


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

    # ---- network databases ----

    def choose(self, *args):
        """compile_targets.py in this process -> (status, ranges, stderr)."""
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        status, out, err = call(compile_targets.main, list(args) + ['--list-ranges'])
        return status, pairs(out), err

    def database_files(self):
        for name, data in DATABASE_FILES.items():
            self.path(name, data)
        self.path('one.txt', b'9.9.9.9')

    def test_as_choices(self):
        """The same ranges whatever the form of the database."""
        self.database_files()
        for name, data in AS_FORMS:
            self.path('db', data)
            for args, ranges in AS_CHOICES:
                with self.subTest(form=name, args=args):
                    status, found, err = self.choose('--as-db', 'db', *args)
                    self.assertEqual((status, found), (0, pairs(ranges)), err)

    def test_as_words(self):
        """What is told of rows passed over, of what is taken and what is ignored."""
        self.database_files()
        self.assertEqual(self.choose('--as-db', 'as.csv', '--as-name', 'amazon')[2], (
            'compile_targets: as.csv: 5 networks, 1 of IPv6 passed over; taken: 66048 addresses '
            'of 2 AS\ncompile_targets: in all: 66048 addresses in 2 ranges\n'))
        err = self.choose('--as-db', 'as.csv', '--as-ignore', '--as-number', '100', '200',
                          '-i', 'some.txt')[2]
        self.assertEqual(err, (
            'compile_targets: as.csv: 5 networks, 1 of IPv6 passed over; ignored: 1536 addresses '
            'of 2 AS, %d in 4 gaps, 256 in 1 islands\ncompile_targets: in all: 1 addresses in 1 '
            'ranges\n' % (ALL - 65536 - 1536 - 256)))
        self.assertIn('reserved', self.choose('--as-db', 'as.csv', '--as-ignore')[2])

    def test_as_several(self):
        """Several databases are one; standard input; what two of them hold counts once."""
        self.database_files()
        self.path('more.csv', b'1.0.0.0/23,100,Amazon\n9.0.0.0/16,100,Amazon\n')
        found = self.choose('--as-db', 'as.csv', '--as-db', 'more.csv', '--largest', '1')
        self.assertEqual(found[:2], (0, pairs('1.0.0.0-1.0.1.255 9.0.0.0-9.0.255.255')))
        self.path('more.csv', b'1.0.4.0/24,9,begins there, too\n1.0.4.0/23,200,and is longer\n')
        found = self.choose('--as-db', 'as.csv', '--as-db', 'more.csv', '--as-ignore',
                            '--as-number', '200')
        self.assertEqual(found[:2], (0, pairs('1.0.0.0-1.0.2.255 1.1.0.0-1.1.255.255')))
        self.assertIn('ignored: 1024 addresses of 1 AS', found[2])
        done = self.run_here(['x', '--as-db', '-', '--as-number', '200', '-p', '80'], AS_TSV)
        self.assertEqual(done[:2], (0, ''), done[2])
        self.assertIn('standard input: 5 networks, 1 not routed; taken', done[2])
        self.assertEqual(cscan.unpack_csw(self.read('x.csw'), 'x'), pairs('1.0.4.0-1.0.7.255'))
        self.assertEqual(len(self.read('x.csp')), 20)

    def test_as_table(self):
        """--list-as: largest first, of equals the lowest number; nothing harms a terminal."""
        self.database_files()
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        self.path('evil.csv', b'1.2.3.0/24,7,"\x1b[2J\n\xff"\n1.2.4.0/24,6,x\n1.2.2.0/24,8,y\n')
        self.path('odd.csv', b'1.2.3.2/31,7,x\n1.2.3.9/32,8,y\n1.2.3.1/32,7,x\n1.2.3.0/31,7,x\n'
                             b'9.0.0.0/8,,none\n0.0.0.0/32,9,z\n')
        for args, rows in (
                (['--as-db', 'as.csv'], [
                    '300 65536 amazonas', '200 1024 The "Orange" Company',
                    '100 512 Amazon.com, Inc.', '4294967295 256 Caf\\xe9 S.A.']),
                (['--as-db', 'as.csv', '--as-name', 'amazon', '--largest', '1'],
                 ['300 65536 amazonas']),
                (['--as-db', 'odd.csv'], ['7 4 x', '8 1 y', '9 1 z']),
                (['--as-db', 'evil.csv', '--largest', '2'], [
                    '6 256 x', '7 256 \\x1b[2J\\n\\ufffd'])):
            with self.subTest(args=args):
                status, out, err = call(compile_targets.main, args + ['--list-as'])
                self.assertEqual((status, [line.split(None, 2) for line in out.splitlines()]), (
                    0, [row.split(' ', 2) for row in ['AS ADDRESSES NAME'] + rows]))
                self.assert_line(err, 'networks')

    def test_small_gaps(self):
        """Down to one address, and around the default of --gap-size."""
        self.path('db', b'1.2.3.4\t1.2.3.4\t7\tPL\tx\n1.2.3.6\t1.2.3.6\t7\tPL\tx\n'
                        b'1.2.3.8\t1.4.3.8\t8\tPL\ty\n1.6.3.9\t1.6.5.9\t8\tPL\ty\n'
                        b'1.8.5.9\t1.8.7.9\t8\tPL\ty\n')
        for args, ranges in (
                (['--as-name', 'x'], '1.2.3.4 1.2.3.6'),
                (['--as-name', 'x', '--as-ignore'], '1.2.3.8-1.4.3.8 1.6.3.9-1.8.7.9'),
                (['--as-ignore', '--as-name', 'y', '--island-size', '0'], '1.2.3.4-1.2.3.6'),
                (['--as-ignore', '--gap-size', '1', '--island-size', '0'],
                 '1.2.3.4 1.2.3.6 1.2.3.8-1.4.3.8 1.6.3.9-1.6.5.9 1.8.5.9-1.8.7.9')):
            with self.subTest(args=args):
                self.assertEqual(self.choose('--as-db', 'db', *args)[:2], (0, pairs(ranges)))

    def test_ends_of_space(self):
        """The first and the last address there is."""
        self.path('db', b'255.0.0.0/8,1,y\n0.0.0.0/8,2,x\n')
        for args, ranges in (
                (['--as-number', '1', '--as-name', 'x'], '0.0.0.0-0.255.255.255 '
                                                         '255.0.0.0-255.255.255.255'),
                (['--as-ignore'], '0.0.0.0-0.255.255.255 255.0.0.0-255.255.255.255'),
                (['--as-ignore', '--as-name', 'x'], '255.0.0.0-255.255.255.255'),
                (['--as-ignore', '--gap-size', '4294967295'], '0.0.0.0-255.255.255.255'),
                (['--as-ignore', '--as-name', 'y', '--gap-size', '4294967295'],
                 '0.0.0.0-0.255.255.255')):
            with self.subTest(args=args):
                self.assertEqual(self.choose('--as-db', 'db', *args)[:2], (0, pairs(ranges)))

    def test_list_as_alone(self):
        self.database_files()
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        for more in (['-i', 'some.txt'], ['--list'], ['--list-ranges'],
                     ['--country-db', 'as.tsv', '--country', 'PL']):
            with self.subTest(more=more):
                done = call(compile_targets.main, ['--as-db', 'as.csv', '--list-as'] + more)
                self.assert_stop(done, 2, 'compile_targets: --list-as')

    def test_intersected(self):
        """Against sets."""
        rng = random.Random(SEED)
        for _ in range(300):
            one, two = (compile_targets.merge_ranges(
                [(first, first + rng.randrange(4)) for first in rng.sample(range(40), count)])
                for count in (rng.randrange(9), rng.randrange(9)))
            with self.subTest(seed=SEED, one=one, two=two):
                found = compile_targets.intersect_ranges(one, two)
                self.assertEqual(members(found), members(one) & members(two))
                self.assertEqual(len(members(found)), compile_targets.count_addresses(found))

    def test_as_ignored(self):
        """Against the rule written out, over units of 2**20 addresses."""
        rng = random.Random(SEED)
        unit, units = 1 << 20, 4096
        for _ in range(8):
            gap, island = rng.randrange(1, 9), rng.randrange(0, 5)
            kinds = ''.join(rng.choice('-ox') * rng.randrange(1, 12) for _ in range(units))[:units]
            data = ''.join('%s/12,%d,%s\n' % (ipaddress.IPv4Address(at * unit), ord(kind), kind)
                           for at, kind in enumerate(kinds) if kind != '-')
            self.path('db', data.encode())
            left = re.sub('-+', lambda run: ('x' if len(run.group()) >= gap or 'x' in kinds[
                max(run.start() - 1, 0):run.end() + 1] else 'o') * len(run.group()), kinds)
            left = re.sub('o+', lambda run: ('x' if len(run.group()) <= island else 'o')
                          * len(run.group()), left)
            wanted = [(run.start() * unit, run.end() * unit - 1)
                      for run in re.finditer('o+', left)]
            with self.subTest(seed=SEED, gap=gap, island=island):
                found = self.choose('--as-db', 'db', '--as-ignore', '--as-name', 'x', '--gap-size',
                                    str(gap * unit), '--island-size', str(island * unit))
                self.assertEqual(found[:2], (0, wanted))

    def test_country_choices(self):
        self.database_files()
        for args, by_blocks, by_tsv in COUNTRY_CHOICES:
            for files, ranges in ((['blocks.csv', 'locations.csv'], by_blocks),
                                  (['as.tsv'], by_tsv), (['country.tsv'], by_tsv)):
                with self.subTest(args=args, files=files):
                    found = self.choose('--country-db', *(files + args))
                    self.assertEqual(found[:2], (0, pairs(ranges)), found[2])
                    self.assertIn('2 of no country' if files[1:] else '1 of no country', found[2])
                    self.assertRegex(found[2], '\ncompile_targets: in all: [0-9]+ addresses in ')

    def test_other_makers(self):
        """DB-IP, IP2Location and RIRs: the same ranges as from GeoLite2, told by their contents."""
        self.database_files()
        poland = pairs('1.0.2.0-1.0.2.255 1.0.4.0-1.0.7.255')
        for name, networks, ipv6 in (('dbip-country.csv', 5, 1), ('dbip-city.csv', 4, 0),
                                     ('ip2location.csv', 5, 1), ('delegated', 5, 1)):
            with self.subTest(name):
                status, found, err = self.choose('--country-db', name, '--country', 'pl')
                self.assertEqual((status, found), (0, poland), err)
                self.assertIn('%s: %d networks' % (name, networks), err)
                self.assertEqual('%d of IPv6 passed over' % ipv6 in err, ipv6 > 0)
        for name in 'dbip-as.csv', 'ip2location-as.csv':
            for choice in ['--as-name', '^amazon.com, inc'], ['--as-number', '100']:
                with self.subTest(name, choice=choice):
                    self.assertEqual(self.choose('--as-db', name, *choice)[1],
                                     pairs('1.0.0.0-1.0.1.255'))

    def test_rows_of_other_makers(self):
        """A row that is not of the file's form is named."""
        for name, row, part in (
                ('dbip-as.csv', '1.2.3.9,1.2.3.4,5,x', 'not first and last address, a comma'),
                ('dbip-as.csv', '1.2.3.0/24,5,x', 'not first and last'),
                ('ip2location-as.csv', '5,4,1.2.3.0/24,5,x', 'address as numbers'),
                ('ip2location-as.csv', '5,x,1.2.3.0/24,5,x', 'as numbers'),
                ('ip2location-as.csv', '1,%s,x,5,x' % ('9' * 40), 'as numbers')):
            with self.subTest(row=row):
                data = DATABASE_FILES[name].split(b'\n')[0] + b'\n' + row.encode() + b'\n'
                self.path('db', data)
                err = self.choose('--as-db', 'db', '--largest', '1')[2]
                self.assert_line(err, 'db:2: ', part)
        for row in ('ripencc|PL|ipv4|1.2.3.0|0|1|a', 'ripencc|PL|ipv4|255.255.255.0|257|1|a', 'x|y',
                    'ripencc|PL|ipv4|01.2.3.0|256|1|a', 'ripencc|PL|ipv5|1.2.3.0|256|1|a'):
            with self.subTest(row=row):
                self.path('db', DATABASE_FILES['delegated'] + row.encode() + b'\n')
                err = self.choose('--country-db', 'db', '--country', 'PL')[2]
                self.assert_line(err, 'db:13: ', 'not registry|country|ipv4')

    def test_databases_refused(self):
        self.database_files()
        for args, status, part in NO_DATABASES:
            with self.subTest(args=args):
                status_found, found, err = self.choose(*args)
                self.assertEqual((status_found, found), (status, []))
                self.assert_line(err.split('\n')[-2], 'compile_targets: ', part)
        self.assertEqual(set(self.look()), set(DATABASE_FILES) | {'one.txt'})

    def test_rows_refused(self):
        """One line that names the file and the line of the row."""
        for rows, lines in ((NO_ROWS, AS_HEADER + AS_ROWS), (NO_TSV_ROWS, AS_TSV)):
            good = b''.join(lines.splitlines(True)[:2])
            for row, part in rows:
                with self.subTest(row=row[:40]):
                    self.path('db', good + row.encode() + b'\n' + AS_ROWS)
                    status, _, err = self.choose('--as-db', 'db', '--largest', '9')
                    self.assertEqual(status, 1)
                    self.assert_line(err, 'db:3: ', part)
        self.path('blocks', BLOCKS + b'1.2.3.0/24,77,1,\n')
        self.path('locations', LOCATIONS)
        err = self.choose('--country-db', 'blocks', 'locations', '--country', 'PL')[2]
        self.assert_line(err, "blocks:9: geoname_id '77': not in locations")

    def test_many_names(self):
        """More names than are remembered: all are found."""
        with unittest.mock.patch('compile_targets.NAMES_KEPT', 2):
            self.path('db', b''.join(b'1.2.%d.0/24,%d,name %d\n' % (at, at + 1, at % 5)
                                     for at in range(20)))
            found = self.choose('--as-db', 'db', '--as-name', '[13]')
        self.assertEqual(len(found[1]), 8)

    @unittest.skipUnless(TEST_ALL, 'long: TEST_ALL=1')
    def test_million_rows(self):
        """A million networks, none touching another: within 200 MB."""
        with open(self.path('db'), 'wb') as file:
            for at in range(1000000):
                file.write(b'%d.%d.%d.0/25,%d,"Company, %d"\n' % (
                    at >> 16, at >> 8 & 255, at & 255, at * 7 % 75000 + 1, at * 7 % 75000))
        for args in (['--as-name', '7$'], ['--as-name', '7$', '--as-ignore']):
            with self.subTest(args=args):
                script = ('import resource, sys, compile_targets as c; c.main(sys.argv[1:]); '
                          'print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)')
                done = subprocess.run([sys.executable, '-c', script, self.path('x'), '--as-db',
                                       self.path('db')] + args, stdout=subprocess.PIPE, cwd=HERE)
                self.assertGreater(os.path.getsize(self.path('x.csw')), 800000)
                if sys.implementation.name == 'cpython':
                    self.assertLess(int(done.stdout), 200 << 10)

    # ---- baked copies ----

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

    def test_many_of_one_name(self):
        """As many attempts as files, whatever was there before: nothing is tried again and again."""
        made = Made().head(1, 'm')
        for _ in range(300):
            made.begin(1, CBA_FILE, 0, 'd/a').end(1)
        made.begin(1, CBA_FILE, 0, 'd/a.7').end(1)
        os.makedirs(self.path('out/d'))
        for name in 'a', 'a.1':
            self.path('out/d/' + name, b'old')
        attempts = []

        def counting(*args, **options):
            attempts.append(args[0])
            return os.open(*args, **options)
        for overwrite in False, True:
            cba = cba_reader.CBA(io.BytesIO(made.data), self.path('out'), '*', overwrite)
            del attempts[:]
            with patched(cba_reader, os=Overlay(os, open=counting)):
                for _ in cba.entries():
                    pass
            self.assertEqual((len(cba.extracted), cba.refused), (301, []))
            self.assertIn('d/a.7.1', cba.extracted)
            self.assertLess(len(attempts), 301 * 3 + 10)
            self.assertEqual(len(cba.fresh), 301)

    def test_large_entries(self):
        """An entry of many events comes in pieces; statistics are not torn, nothing is lost."""
        made = Made().head(1, 'm')
        for number in range(100):
            made.event(1, CBA_BIT, number, True)
        stats = Made().head(1, 'cscan')
        for number in range(40):
            stats.event(1, CBA_INT64, 11, number).event(1, CBA_INT32, 0, 1).event(1, CBA_INT32, 0, 2)
        numbers = Made().head(1, 'm')
        for number in range(50):
            numbers.event(1, CBA_INT32, 0, number)
        for made, size, sizes in ((made, 30, [30, 30, 30, 10]), (stats, 29, [30, 30, 30, 30]),
                                  (numbers, 20, [40, 10]), (made, 100, [100])):
            with self.subTest(sizes=sizes), patched(cba_reader, EVENTS_MAX=size):
                pieces = list(cba_reader.CBA(io.BytesIO(made.data)).entries())
                self.assertEqual([len(piece.events) for piece in pieces], sizes)
                self.assertEqual(sum((piece.events for piece in pieces), []), made.entries()[0][1])
                self.assertEqual({piece.module for piece in pieces}, {made.entries()[0][0]})

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
                (['--module', 'rfb:99'], '9.8.7.6:5900\n'), (['--module', ':0'], REAL_RESULTS),
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
                    self.assertEqual(done[2], {
                        '': 'Results:\n', '-s -r': 'Results:\n', '--module none': "cba_reader: no "
                        "entry of module 'none': there are '', 'cscan', 'rfb', 'x11'\n",
                    }.get(' '.join(args), ''))
        self.assertEqual(run_tool('cba_reader.py', [path]),
                         (0, REAL_STATS + '\n' + REAL_RESULTS, 'Results:\n'))

    def test_program_refuses(self):
        good = self.path('good.cba', CBA_REAL)
        for args, status, part in (
                ([], 2, 'FILE'), (['-Z', good], 2, '-Z'), (['--mod', 'rfb', good], 2, '--mod'),
                (['-r', '--module', 'rfb', good], 2, '--module'),
                (['--overwrite', good], 2, '--extract'), (['--module'], 2, '--module'),
                (['--json', '--extract', 'in', good], 2, '--json'),
                (['--json', '--module', 'x11:WIN', good], 1, "'x11:WIN'"),
                (['-r', self.path('missing')], 1, "missing': No such file"),
                (['-r', self.folder], 1, 'directory'),
                (['-r', self.path('text', b'hello\n')], 1, 'not a CBA file'),
                ([self.path('text')], 1, 'not a CBA file'), (['-s', self.path('text')], 1, 'not a'),
                ([self.path('missing')], 1, 'missing'), (['-s', '-r', self.folder], 1, 'directory'),
                (['--module', 'rfb:', good], 1, "'rfb:'"),
                (['--module', 'rfb:-1', good], 1, "'rfb:-1'"),
                (['--module', 'rfb:\u0661', good], 1, 'rfb:')):
            with self.subTest(args=args):
                self.assert_stop(call(cba_reader.main, args), status, 'cba_reader: ', part)
        done = run_tool('cba_reader.py', ['-r', self.path('missing')])
        self.assert_stop(done, 1, 'cba_reader: ', 'missing')

    def json_lines(self, *args):
        """cba_reader.py --json -> (status, objects, stderr); nothing but printable ASCII."""
        status, out, err = call(cba_reader.main, ['--json'] + list(args))
        self.assertRegex(out, r'\A[ -~\n]*\Z')
        return status, [json.loads(line) for line in out.split('\n') if line], err

    def test_json(self):
        """Every entry, every event of it, in order and with its value."""
        made = sample()
        path = self.path('s.cba', made.data)
        status, lines, err = self.json_lines(path)
        self.assertEqual((status, err, {line['file'] for line in lines}), (0, '', {path}))
        kinds = {'str': CBA_STR, 'file': CBA_FILE, 'data': CBA_DATA, 'int32': CBA_INT32,
                 'int64': CBA_INT64, 'bit': CBA_BIT}
        found = [(line['module'], [
            (kinds[event['type']], event['code'], base64.b64decode(event['value'])
             if event['type'] == 'data' else event['value']) for event in line['events']])
            for line in lines]
        self.assertEqual(found, made.entries())
        self.assertEqual(lines[1], {
            'file': path, 'module': 'rfb', 'ip': '1.2.3.4', 'port': 5900, 'events': [
                {'type': 'str', 'code': 0, 'value': 'vnc://1.2.3.4:5900'},
                {'type': 'data', 'code': 2, 'name': 'BANNER_FAIL', 'value': 'UkZCIDAwMw=='},
                {'type': 'bit', 'code': 6, 'name': 'WIN', 'value': True}], 'state': 'open'})
        for args, modules in ((['-r'], ['', '']), (['-s'], ['cscan']), (['--module', 'rfb:WIN'],
                              ['rfb']), (['--module', 'rfb'], ['rfb', 'rfb'])):
            with self.subTest(args=args):
                self.assertEqual([line['module'] for line in self.json_lines(*args + [path])[1]],
                                 modules)

    def test_json_targets(self):
        """ip and port of an entry's first string of code 0, where it begins with them."""
        for text, target in JSON_TARGETS:
            with self.subTest(text=text):
                made = Made().head(1, 'm').event(1, CBA_STR, 4, '9.9.9.9:9')
                made.event(1, CBA_STR, 0, text).event(1, CBA_INT32, 0, 5)
                line = self.json_lines(self.path('t.cba', made.data))[1][0]
                self.assertEqual((line.get('ip'), line.get('port')), target or (None, None))

    def test_several_files(self):
        """Read as one, headings once; what is broken is named at the end, the rest is read."""
        self.set_zone('UTC')
        good = self.path('good.cba', CBA_REAL)
        more = self.path('more.cba', Made('>').head(1, '').event(1, CBA_STR, 0, '9.9.9.9:9').data)
        torn = self.path('torn.cba', CBA_REAL[:100])
        damaged = self.path('damaged.cba', b'L' + bytes.fromhex('010000 01010300613a62 017f'))
        text, missing = self.path('text', b'hello\n'), self.path('missing')
        results = REAL_RESULTS + '9.9.9.9:9\n'
        for args, status, out, parts in (
                ([good, more], 0, REAL_STATS + '\n' + results, []),
                (['-r', good, more], 0, results, []),
                (['-r', more, more], 0, '9.9.9.9:9\n' * 2, []),
                (['-r', text, missing, good, self.folder, more], 1, results,
                 [repr(text), repr(missing), 'directory']),
                ([text, good, more], 1, REAL_STATS + '\n' + results, [repr(text)]),
                (['-r', damaged, more], 1, 'a:b\n9.9.9.9:9\n',
                 [damaged + ': offset 11: type 127']),
                (['--module', 'rfb', self.path('none.cba', b'L'), self.path('no.cba', b'')],
                 0, '', []),
                (['-r', torn, more], 0, '10.0.0.111:5901\n9.9.9.9:9\n', [torn + ': offset'])):
            with self.subTest(args=args):
                done = call(cba_reader.main, args)
                self.assertEqual(done[:2], (status, out))
                lines = [line for line in done[2].split('\n') if line not in ('', 'Results:')]
                self.assertEqual(len(lines), len(parts), lines)
                for line, part in zip(lines, parts):
                    self.assert_line(line, 'cba_reader: ', part)

    def test_several_extracted(self):
        """FILEs of the same name in two files: both are kept, with --overwrite, too."""
        paths = [self.path('%d.cba' % number, self.files('a', str(number)).data)
                 for number in range(2)]
        for options in ([], ['--overwrite']):
            with self.subTest(options=options):
                shutil.rmtree(self.path('in'), ignore_errors=True)
                done = call(cba_reader.main, paths + options + ['--extract', self.path('in')])
                self.assertEqual((done[0], sorted(done[1].split())), (0, ['0', '1', 'a', 'a.1']))

    def test_piped(self):
        """What comes out of a pipe is read twice, too."""
        for name in ('-', '/dev/stdin'):
            with self.subTest(name=name):
                done = run_tool('cba_reader.py', [name], CBA_REAL)
                self.assertEqual(done, (0, REAL_STATS + '\n' + REAL_RESULTS, 'Results:\n'))

    def test_jq(self):
        """Each line is what jq takes for an object."""
        if not shutil.which('jq'):
            (self.fail if REQUIRED else self.skipTest)('jq is not there')
        path = self.path('s.cba', sample().data)
        text = run_tool('cba_reader.py', ['--json', path])[1]
        done = subprocess.run(['jq', '-r', 'select(any(.events[]; .name == "WIN")) | .ip'],
                              input=text.encode(), stdout=subprocess.PIPE, timeout=TIMEOUT_S)
        self.assertEqual((done.returncode, done.stdout), (0, b'1.2.3.4\n'))

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
                            (['--json'], 4),
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
        for args in ([good], ['-r', good], ['-r', cut], ['--module', 'rfb', good],
                     ['--json', good]):
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
            for args in (['-r', path], ['-s', path], ['--json', path]):
                with self.subTest(args=args, redirect=redirect):
                    done = run_tool('cba_reader.py', args, redirect=redirect)
                    self.assert_stop(done, 1, 'cba_reader: ')
                    self.assertNotIn(path, done[2])


# ==== Output formats ==================================================================

FORMAT_WHEN = 1795257000                    # 2026-11-21 10:30:00 UTC
FORMAT_EVIL = 'HTTP/1.0 "<&>\\ \x1b[2J\xe9\x7f\r\n]]>-->%s'


def format_sample():
    """Two open ports, one of them twice, what a server said, and an entry without target."""
    made = Made().head(0, 'cscan').event(0, CBA_INT64, 11, FORMAT_WHEN)
    made.event(0, CBA_INT32, 0, 1).event(0, CBA_INT32, 0, 2)
    made.head(1, '').event(1, CBA_STR, 0, '1.2.3.4:80')
    made.head(1, 'banner').event(1, CBA_STR, 0, 'banner://1.2.3.4:80')
    made.event(1, CBA_STR, 2, FORMAT_EVIL).event(1, CBA_BIT, 9, True)
    made.head(1, '').event(1, CBA_STR, 0, '5.6.7.8:443')
    made.head(1, '').event(1, CBA_STR, 0, '1.2.3.4:80')
    return made.head(1, 'odd').event(1, CBA_STR, 0, 'no target')


# Format: its lines for that sample; layouts as masscan 1.3.2, zmap 2.1.1 and nmap 7.93 write
# them, naabu's fields from its source
MASSCAN_EVIL = r'HTTP/1.0 \x22\x3c\x26\x3e\x5c \x1b[2J\xe9\x7f\x0d\x0a]]\x3e--\x3e%s'
XML_HOST = ('<host endtime="1795257000"><address addr="%s" addrtype="ipv4"/><ports>'
            '<port protocol="tcp" portid="%d"><state state="open" reason="%s" reason_ttl="0"/>%s'
            '</port></ports></host>')
NMAP_HOST = ('<host starttime="1795257000" endtime="1795257000"><status state="up" '
             'reason="syn-ack" reason_ttl="0"/><address addr="%s" addrtype="ipv4"/><ports>')
NMAP_PORT = ('<port protocol="tcp" portid="%d"><state state="open" reason="syn-ack" '
             'reason_ttl="0"/>%s</port>')
NMAP_EVIL = ('<service name="http" method="probed" conf="10"/>'
             '<script id="banner" output="HTTP/1.0 &quot;&lt;&amp;&gt;\\ \\x1b[2J&#233;'
             '\\x7f\\r\\n]]&gt;--&gt;%s"/>')
MASSCAN_OPEN = ('{"ip": "%s", "timestamp": "1795257000", "ports": [{"port": %d, "proto": "tcp", '
                '"status": "open", "reason": "syn-ack", "ttl": 0}]}')
NAABU = ('{"ip": "%s", "timestamp": "2026-11-21T10:30:00Z", "port": %d, "protocol": "tcp", '
         '"tls": false}')
CSV_ROW = '1795257000,%s,%d,"print","","",open'
FORMATS = {
    'csv': ['time,ip,port,module,text,hostname,state', CSV_ROW % ('1.2.3.4', 80),
            '1795257000,1.2.3.4,80,"banner","HTTP/1.0 ""<&>\\ \\x1b[2J\\xe9\\x7f\\r\\n'
            ']]>-->%s 9","",open', CSV_ROW % ('5.6.7.8', 443)],
    'list': ['#masscan', 'open tcp 80 1.2.3.4 1795257000',
             'banner tcp 80 1.2.3.4 1795257000 http ' + MASSCAN_EVIL,
             'open tcp 443 5.6.7.8 1795257000', '# end'],
    'grepable': ['# cscan scan initiated 2026-11-21 10:30:00',
                 'Timestamp: 1795257000\tHost: 1.2.3.4 ()\tPorts: 80/open/tcp////',
                 'Host: 1.2.3.4 ()\tPort: 80\tService: http\tBanner: ' + MASSCAN_EVIL,
                 'Timestamp: 1795257000\tHost: 5.6.7.8 ()\tPorts: 443/open/tcp////',
                 '# cscan done at 2026-11-21 10:30:00'],
    'xml': ['<?xml version="1.0"?>',
            '<nmaprun scanner="masscan" start="1795257000" version="1.0-BETA" '
            'xmloutputversion="1.03">', '<scaninfo type="connect" protocol="tcp"/>',
            XML_HOST % ('1.2.3.4', 80, 'syn-ack', ''),
            XML_HOST % ('1.2.3.4', 80, 'response',
                        '<service name="http" banner="%s"/>' % MASSCAN_EVIL),
            XML_HOST % ('5.6.7.8', 443, 'syn-ack', ''), '<runstats>',
            '<finished time="1795257000" timestr="2026-11-21 10:30:00" elapsed="0"/>',
            '<hosts up="3" down="0" total="3"/>', '</runstats>', '</nmaprun>'],
    'masscan-json': ['[', MASSCAN_OPEN % ('1.2.3.4', 80), ',',
                     '{"ip": "1.2.3.4", "timestamp": "1795257000", "ports": [{"port": 80, '
                     '"proto": "tcp", "service": {"name": "http", "banner": %s}}]}'
                     % json.dumps(MASSCAN_EVIL), ',', MASSCAN_OPEN % ('5.6.7.8', 443), ']'],
    'nmap-xml': ['<?xml version="1.0" encoding="UTF-8"?>', '<!DOCTYPE nmaprun>',
                 '<nmaprun scanner="nmap" args="ARGS" start="1795257000" '
                 'startstr="2026-11-21 10:30:00" version="cscan" xmloutputversion="1.05">',
                 '<verbose level="0"/>', '<debugging level="0"/>', NMAP_HOST % '1.2.3.4',
                 NMAP_PORT % (80, NMAP_EVIL), '</ports></host>', NMAP_HOST % '5.6.7.8',
                 NMAP_PORT % (443, ''), '</ports></host>',
                 '<runstats><finished time="1795257000" timestr="2026-11-21 10:30:00" elapsed="0" '
                 'exit="success"/><hosts up="2" down="0" total="2"/></runstats>', '</nmaprun>'],
    'zmap': ['saddr,sport', '1.2.3.4,80', '5.6.7.8,443'],
    'naabu': [NAABU % ('1.2.3.4', 80), NAABU % ('5.6.7.8', 443)],
}

# What is no name of a host: {} stands for 64 letters; and what is one
NO_HOST_NAMES = ['', '127.1', '1', '0x7f000001', '0X7F', 'a.0x1', 'a..b', '.a', 'a b', 'a/b',
                 'a:80', 'a\x1b', '{}', 'a.' * 127 + 'b']
HOST_NAMES = ['localhost', 'example.org', 'example.org.', '_a.x-1.example', 'b\xfccher.example',
              '3com']


class OutputFormats(Case):
    """--format of cscan.py and --to of cba_reader.py; hosts by name."""

    def convert(self, name, *args, path=None):
        """cba_reader.py --to -> lines; the command line in them is ARGS."""
        path = path or self.path('s.cba', format_sample().data)
        with patched(sys, argv=['x', '<ARGS"&>']):
            status, out, self.err = call(cba_reader.main, ['--to', name] + list(args) + [path])
        self.assertEqual(status, 0)
        return out.replace('cba_reader.py \'&lt;ARGS&quot;&amp;&gt;\'', 'ARGS').splitlines()

    def test_formulas(self):
        """No text of strangers is a formula in a spreadsheet."""
        rows = [('=1+1', "'=1+1"), ('+1', "'+1"), ('-1', "'-1"), ('@x', "'@x"), ('', ''),
                ('a=1', 'a=1'), ('\t=1', '\\x09=1'), ('\r=1', '\\x0d=1'), ('"=1', '""=1')]
        for program in cscan, cba_reader:
            for text, cell in rows:
                self.assertEqual(program.csv_cell(text), '"%s"' % cell.replace('\\x09', cscan.printable(
                    '\t')).replace('\\x0d', cscan.printable('\r')))
            self.assertIn(',"\'=x","\'@y"', program.csv_line(
                types.SimpleNamespace(time=1, module='=x', events=[(1, 0, '@y')], names={}),
                '1.2.3.4', 5))

    def test_layouts(self):
        """What each format writes of open ports, and of what a stranger said."""
        self.assertEqual(set(FORMATS) | {'json'}, set(cba_reader.FORMATS))
        for name, lines in FORMATS.items():
            with self.subTest(name):
                self.assertEqual(self.convert(name, '--unique'), lines)
                self.assertIn('--unique: 1 left out', self.err)
                self.assertIn(
                    'no place for the entries of ' + (
                        "'banner' (1), 'odd' (1);" if name in ('zmap', 'naabu') else "'odd' (1);"),
                    self.err)
                again = 0 if name == 'nmap-xml' else 1 + (',' in lines)
                self.assertEqual(len(self.convert(name)), len(lines) + again)
        self.assertEqual(self.convert('zmap', '-r', '--no-header'),
                         ['1.2.3.4,80', '5.6.7.8,443', '1.2.3.4,80'])
        self.assertEqual(self.err, '')
        path = self.path('s.cba')
        self.assertEqual(self.convert('json'),
                         call(cba_reader.main, ['--json', path])[1].splitlines())

    def test_banners(self):
        """A banner is what was said, its service is known by it; other words keep their names."""
        names = cba_reader.CODES['banner']
        for said, tls, service in (
                ('SSH-2.0-OpenSSH_9', False, 'ssh'), ('HTTP/1.1 200 OK', False, 'http'),
                ('220 (vsFTPd 3.0.3)\r\n', False, 'ftp'), ('220 mx ESMTP Postfix', False, 'smtp'),
                ('RFB 003.008\n', False, 'vnc'), ('+OK ready', False, 'pop3'),
                ('* OK IMAP4', False, 'imap'), ('\xff\xfd\x18', False, 'telnet'),
                ('J\0\0\0\n8.0.36\0', False, 'mysql'), ('what', False, 'unknown'),
                ('HTTP/1.0 200 OK', True, 'http'), ('', True, 'unknown'), (None, True, 'ssl'),
                (None, False, 'unknown')):
            with self.subTest(said=said, tls=tls):
                events = [(CBA_STR, 0, 'banner://1.2.3.4:22'), (CBA_STR, 5, 'http')]
                events += [(CBA_STR, 6, 'TLSv1.3')] * tls
                events += [] if said is None else [(CBA_STR, 2, said)]
                record = cba_reader.Record(None, 'banner', events, names, 0)
                self.assertEqual(cba_reader.masscan_name(record), service)
                words = 'PROBE=http' + ' TLS_VERSION=TLSv1.3' * tls
                self.assertEqual(cba_reader.said_text(record, str),
                                 words if said is None else said)
                self.assertEqual(cba_reader.record_text(record, str),
                                 words if said is None else words + ' ' + said)

    # ---- ports that are not open

    def stated(self):
        """Entries of `state` as --show writes them, one that is none, and an open port."""
        made = Made().head(0, 'cscan').event(0, CBA_INT64, 11, FORMAT_WHEN)
        made.event(0, CBA_INT32, 0, 1).event(0, CBA_INT32, 0, 2)
        for host, state, reason in (('1.2.3.4:81', 'refused', 'refused'),
                                    ('1.2.3.4:82', 'silent', 'no answer'),
                                    ('5.6.7.8:80', 'unreachable', 'net unreachable'),
                                    ('5.6.7.8:81', 'unreachable', '=odd <">')):
            made.head(1, 'state').event(1, CBA_STR, 0, host)
            made.event(1, CBA_STR, 1, state).event(1, CBA_STR, 2, reason)
        made.head(1, '').event(1, CBA_STR, 0, '1.2.3.4:80')
        return self.path('states.cba', made.data)

    def test_states(self):
        """Each format that has a place for them, and those that have none."""
        path, when = self.stated(), '1795257000'
        for name, places in (('csv', slice(1, None)), ('list', slice(1, -1)),
                             ('grepable', slice(1, -1)), ('xml', slice(3, -5)),
                             ('masscan-json', slice(1, -1, 2))):
            found = self.convert(name, path=path)[places]
            with self.subTest(name):
                self.assertEqual(found[0], {
                    'csv': when + ',1.2.3.4,81,"state","refused","",refused',
                    'list': 'closed tcp 81 1.2.3.4 %s refused' % when,
                    'grepable': 'Timestamp: %s\tHost: 1.2.3.4 ()\tPorts: 81/closed/tcp////\t'
                                'Reason: refused' % when,
                    'xml': (XML_HOST % ('1.2.3.4', 81, 'conn-refused', '')).replace(
                        '"open"', '"closed"'),
                    'masscan-json': (MASSCAN_OPEN % ('1.2.3.4', 81)).replace(
                        'open', 'closed').replace('syn-ack', 'conn-refused')}[name])
                self.assertEqual(len(found), 5)
                self.assertEqual('\n'.join(found).count('closed'), 0 if name == 'csv' else 1)
                self.assertEqual('\n'.join(found).count('filtered'), 0 if name == 'csv' else 3)
        self.assertIn('"\'=odd <"">","",unreachable', '\n'.join(self.convert('csv', path=path)))
        lines = [json.loads(line) for line in self.convert('json', path=path)]
        self.assertEqual([line.get('state') for line in lines],
                         ['refused', 'silent', 'unreachable', 'unreachable', None, 'open'])
        self.assertEqual(lines[0]['events'][1], {'type': 'str', 'code': 1, 'name': 'STATE',
                                                 'value': 'refused'})
        for name, args in (('zmap', []), ('naabu', []), ('text', ['--group'])):
            out = call(cba_reader.main, [path] + (args or ['--to', name]))
            self.assertEqual((out[0], out[1].count('1.2.3.4'), out[1].count('5.6.7.8')), (0, 1, 0))
            self.assertIn("no place for the entries of 'state' (4)", out[2])

    def test_states_by_host(self):
        """nmap's words for states and reasons; a host of which nothing answers is down."""
        root = xml.etree.ElementTree.fromstring('\n'.join(
            self.convert('nmap-xml', path=self.stated())))
        self.assertEqual([(host.find('status').get('state'), host.find('status').get('reason'), [
            (port.get('portid'),) + tuple(port.find('state').get(key) for key in (
                'state', 'reason')) for port in host.iter('port')]) for host in root.iter('host')], [
            ('up', 'syn-ack', [('80', 'open', 'syn-ack'), ('81', 'closed', 'conn-refused'),
                               ('82', 'filtered', 'no-response')]),
            ('down', 'net-unreach', [('80', 'filtered', 'net-unreach'),
                                  ('81', 'filtered', '=odd <">')])])
        self.assertEqual(root.find('runstats/hosts').attrib,
                         {'up': '1', 'down': '1', 'total': '2'})
        rows = self.convert('csv', '--group', path=self.stated())
        self.assertEqual(rows[1:], [
            '1795257000,1.2.3.4,"","80 81/refused 82/silent",""',
            '1795257000,5.6.7.8,"","80/unreachable 81/unreachable",""'])

    def test_strange_states(self):
        """What a module of that name says otherwise is like any other entry."""
        for events in ([], [(1, 'open')], [(1, 'x')], [(2, 'refused')]):
            with self.subTest(events=events):
                record = cba_reader.Record(None, 'state', [(CBA_STR, 0, '1.2.3.4:80')] + [
                    (CBA_STR,) + event for event in events], {}, 0)
                self.assertEqual(cba_reader.find_state(record), ('open', ''))
        table = cba_reader.HostTable({}.get)
        for state, reason in (('refused', 'refused'), ('open', ''), ('silent', 'no answer')):
            record = cba_reader.Record(None, '', [(CBA_STR, 0, '1.2.3.4:80')], {}, 0)
            table.add(record, cba_reader.Place('1.2.3.4', 80, '', state, reason))
        self.assertEqual([port[:3] for host in table.hosts({}) for port in host.ports()],
                         [(80, 'open', '')])        # one that was open once is
        table = cba_reader.HostTable({}.get)
        kinds = {table.kind('refused', str(number)) for number in range(2000)}
        self.assertEqual((len(kinds), len(table.reasons), table.reasons[-1]),
                         (1001, 1002, ('refused', 'other reasons')))

    def test_show(self):
        """Each target has one row: open, refused, silent; also of workers, retries and -mf."""
        hosts = Hosts(self)
        ports = {'open': hosts.serving()[1], 'refused': hosts.closed()[1],
                 'silent': hosts.silent()[1]}
        wanted = {(str(port), state) for state, port in ports.items()}
        for more in ([], ['-w', 2], ['--retries', 1], ['-mf', self.path('m')], ['-b', 0],
                     ['--state', self.path('state')])[:None if TEST_ALL else 4]:
            with self.subTest(more=more):
                cba = self.path('%d.cba' % next(FREE_PORT))
                status, out, err = run(
                    'cscan.py', '-q', '-b', next(FREE_PORT), '-bt', 50, '-f', '127.0.0.1', '-p',
                    ','.join(map(str, ports.values())), '--once', '-t', 200, '--show',
                    'refused,silent,unreachable', '-o', cba, *more)
                self.assertEqual((status, out, err), (0, '', ''))
                out = call(cba_reader.main, ['--to', 'csv', '--no-header', cba])[1]
                rows = [(row.split(',')[2], row.split(',')[-1]) for row in out.splitlines()]
                self.assertEqual(sorted(rows), sorted(wanted))
        silent = [hosts.silent()[1] for _ in range(6)]
        out = run('cscan.py', '-q', '-b', 0, '-f', '127.0.0.1', '-p', ','.join(map(str, silent)),
                  '--once', '-t', 100, '-m', 2, '-ct', 0, '--show', 'silent', '--format', 'list')
        self.assertEqual(sorted(int(line.split(' ')[2]) for line in out[1].splitlines()[1:-1]),
                         sorted(silent))        # sockets that go from one target to the next
        for show, states in (('silent', {'open', 'silent'}), ('open', {'open'})):
            status, out, err = run(
                'cscan.py', '-q', '-b', 0, '-f', '127.0.0.1', '-p', ','.join(map(
                    str, ports.values())), '--once', '-t', 200, '--show', show, '--format', 'csv')
            rows = {(row.split(',')[2], row.split(',')[-1]) for row in out.splitlines()[1:]}
            self.assertEqual(rows, {pair for pair in wanted if pair[1] in states})

    def test_show_of_workers(self):
        """A worker counts what it tells: its state holds once that is written."""
        messenger = cscan.Messenger.__new__(cscan.Messenger)
        messenger.count, said = 0, []
        messenger.say = said.append
        messenger.put('10.0.0.1', 1)
        messenger.put_state('10.0.0.1', 2, 'unreachable', 'host unreachable')
        self.assertEqual((messenger.accepted(), said), (
            2, ['R 10.0.0.1 1', 'S 10.0.0.1 2 unreachable host unreachable']))

    def test_show_outcomes(self):
        """What the kernel says of a target -> its state and the reason."""
        told = []
        engine = cscan.Engine(columns([]), cscan.plan_pace(10, 100, None, 90, None, 6))
        self.addCleanup(engine.close)
        engine.crew = StubCrew()
        engine.crew.put_state = lambda *args: told.append(args)
        for show in ({'refused', 'unreachable', 'silent'}, {'refused'}, set()):
            engine.show = frozenset(show)
            for code in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES,
                         errno.EPROTO):
                engine.tell(('10.0.0.1', code), code, None)
            engine.unanswered(('10.0.0.1', 1000), None)
            engine.given_up(('10.0.0.1', 1001), None)
            self.assertEqual([each[1:] for each in told], [each for each in [
                (errno.ECONNREFUSED, 'refused', 'refused'),
                (errno.EHOSTUNREACH, 'unreachable', 'host unreachable'),
                (errno.ENETUNREACH, 'unreachable', 'net unreachable'),
                (errno.EACCES, 'unreachable', 'prohibited'),
                (errno.EPROTO, 'unreachable', 'EPROTO'), (1000, 'silent', 'no answer'),
                (1001, 'silent', 'no answer')] if each[1] in show])
            told.clear()

    def test_original_reader(self):
        """What the original's reader takes: prints code 0 of '', and the least of statistics."""
        cba = self.path('o.cba')
        hosts = Hosts(self)
        ports = '%d,%d' % (hosts.serving()[1], hosts.closed()[1])
        status, _, err = run('cscan.py', '-q', '-b', 0, '-f', '127.0.0.1', '-p', ports, '--once',
                             '-o', cba, '-st', 1, '--show', 'refused')
        self.assertEqual((status, err), (0, ''))
        entries = cba_entries(cba, None)
        printed = [each.dict[0] for each in entries if each.module == '']
        self.assertEqual(printed, ['127.0.0.1:' + ports.split(',')[0]])
        for each in entries:
            if each.module == 'cscan':
                self.assertGreater(min(value for _, code, value in each.events if code == 11), 0)
        self.assertEqual([each.events for each in entries if each.module == 'state'], [[
            (CBA_STR, 0, '127.0.0.1:' + ports.split(',')[1]), (CBA_STR, 1, 'refused'),
            (CBA_STR, 2, 'refused')]])

    def test_csv_formulas(self):
        """No cell of a stranger's is one that a spreadsheet would calculate."""
        for text, cell in (
                ('=1+1', '"\'=1+1"'), ('+1', '"\'+1"'), ('-1', '"\'-1"'), ('@SUM(A1)', '"\'@SUM(A1)"'),
                ('\t=1', '"\'\\t=1"'), ('\r=1', '"\'\\r=1"'), ('\x80', '"\'\\x80"'),
                ('a=1', '"a=1"'), ('=a"b', '"\'=a""b"'), ('', '""'), ('1', '"1"')):
            with self.subTest(text):
                self.assertEqual(cba_reader.csv_cell(text), cell)
        made = Made().head(1, '=m').event(1, CBA_STR, 0, '1.2.3.4:80 @x')
        path = self.path('f.cba', made.data)
        self.assertIn(',"\'=m","\'@x",', self.convert('csv', path=path)[1])
        self.assertIn(',"80","80: \'@x"', self.convert('csv', '--group', path=path)[1])

    # ---- by host

    def several(self):
        """Three hosts with two ports each, in no order, one with words of a module."""
        made = Made().head(0, 'cscan').event(0, CBA_INT64, 11, FORMAT_WHEN)
        made.event(0, CBA_STR, 20, 'name:a.example = 1.1.1.1, 2.2.2.2')
        made.event(0, CBA_STR, 20, 'name:b.example = 1.1.1.1')
        for port, host in itertools.product((81, 80), ('2.2.2.2', '10.0.0.1', '1.1.1.1')):
            made.head(1, '').event(1, CBA_STR, 0, '%s:%d' % (host, port))
        for _ in range(2):
            made.head(1, 'banner').event(1, CBA_STR, 0, 'banner://2.2.2.2:80')
            made.event(1, CBA_STR, 6, 'TLSv1.3').event(1, CBA_STR, 2, 'HTTP/1.0 ]"=1')
        made.head(1, 'rfb').event(1, CBA_STR, 0, 'vnc://2.2.2.2:80').begin(1, CBA_DATA, 2)
        return self.path('hosts.cba', made.chunk(1, b'\0\xff').end(1).data)

    def test_by_host(self):
        """A host, all its ports in order, what modules said; names of -f stay with them."""
        path = self.several()
        root = xml.etree.ElementTree.fromstring('\n'.join(self.convert('nmap-xml', path=path)))
        self.assertEqual([(host.find('address').get('addr'), [
            port.get('portid') for port in host.iter('port')], [
            name.get('name') for name in host.iter('hostname')]) for host in root.iter('host')], [
            ('1.1.1.1', ['80', '81'], ['a.example', 'b.example']),
            ('2.2.2.2', ['80', '81'], ['a.example']), ('10.0.0.1', ['80', '81'], [])])
        port = root.findall('host')[1].find('ports/port')
        self.assertEqual(port.find('service').attrib, {
            'name': 'http', 'tunnel': 'ssl', 'method': 'probed', 'conf': '10'})
        self.assertEqual([each.attrib for each in port.iter('script')], [
            {'id': 'banner', 'output': 'HTTP/1.0 ]"=1'},
            {'id': 'rfb', 'output': 'BANNER_FAIL=2 bytes 00ff'}])
        self.assertEqual(root.find('runstats/hosts').attrib,
                         {'up': '3', 'down': '0', 'total': '3'})
        self.assertEqual(call(cba_reader.main, ['--group', path])[1],
                         '1.1.1.1 (a.example b.example): 80 81\n2.2.2.2 (a.example): 80 '
                         '[HTTP/1.0 ]"=1] [BANNER_FAIL=2 bytes 00ff] 81\n10.0.0.1: 80 81\n')
        self.assertEqual(self.convert('csv', '--group', path=path), [
            'time,ip,hostname,ports,text',
            '1795257000,1.1.1.1,"a.example b.example","80 81",""',
            '1795257000,2.2.2.2,"a.example","80 81",'
            '"80: HTTP/1.0 ]""=1 | 80: BANNER_FAIL=2 bytes 00ff"',
            '1795257000,10.0.0.1,"","80 81",""'])
        lines = [json.loads(line) for line in self.convert('json', '--group', path=path)]
        self.assertEqual(lines[2], {'time': FORMAT_WHEN, 'ip': '10.0.0.1', 'ports': [
            {'port': port, 'time': FORMAT_WHEN, 'entries': [], 'state': 'open'}
            for port in (80, 81)]})
        self.assertEqual(lines[1]['hostname'], 'a.example')
        self.assertEqual(lines[1]['ports'][0]['entries'][1], {'module': 'rfb', 'events': [
            {'type': 'str', 'code': 0, 'value': 'vnc://2.2.2.2:80'},
            {'type': 'data', 'code': 2, 'name': 'BANNER_FAIL', 'value': 'AP8='}]})
        for name, words in (('grepable', 'Host: 1.1.1.1 (a.example b.example)\t'),
                            ('csv', ',"a.example b.example",open'),
                            ('json', '"hostname": "a.example b.example"'),
                            ('naabu', '{"host": "a.example", "ip": "1.1.1.1"')):
            self.assertEqual('\n'.join(self.convert(name, path=path)).count(words), 2, name)

    def test_hostnames_cut(self):
        """A line that was cut may end in half an address; strange ones say nothing."""
        cba = cba_reader.CBA(io.BytesIO(b''))
        long = 'name:a = ' + ', '.join(['10.0.0.1'] * 99) + ', ' + '1' * 9 + ', 10.0.0.2'
        long += '3' * (1000 - len(long))
        for kind, code, value in ((CBA_STR, 20, long), (CBA_STR, 21, 'name:b = 10.0.0.1'),
                                  (CBA_STR, 20, 'name:b c = 10.0.0.1'), (CBA_INT32, 20, 7),
                                  (CBA_STR, 20, 'name:b: gone: skipped')):
            cba.note_names(kind, code, value)
        self.assertEqual(cba.hostnames, {'10.0.0.1': 'a', '1' * 9: 'a'})

    def test_many_hosts(self):
        """Sorted through several runs; texts of any size, in the file and behind it."""
        names = {'m': {3: 'THREE'}}
        draw = random.Random(SEED)
        with patched(cba_reader, HELD_RUN=7, TEXT_PIECE=400):
            table = cba_reader.HostTable(names.get)
            wanted = collections.defaultdict(dict)
            for number in range(300):
                host, port = '10.0.%d.1' % draw.randrange(90), draw.randrange(1, 65536)
                text = 'x' * draw.choice([0, 1, 15, 16, 17, 300, 3000])
                events = [(CBA_STR, 0, '%s:%d' % (host, port)), (CBA_STR, 3, text),
                          (CBA_DATA, 0, b'\xff\0')]
                record = cba_reader.Record(None, 'm', events, names['m'], number)
                table.add(record, cba_reader.Place(host, port, '', 'open', ''))
                wanted[host].setdefault(port, []).append(events)
            self.assertGreater(table.spilled, 10000)
            self.assertEqual(table.full(), '')
            self.assertEqual((len(table.buffer) + table.spilled) % cba_reader.TEXT_STEP, 0)
            found = [(host.ip, [(port.number, [record.events for record in host.records(port)])
                                for port in host.ports()]) for host in table.hosts({})]
        self.assertEqual([host for host, _ in found], sorted(wanted, key=ip))
        self.assertEqual(dict(found), {host: sorted(ports.items())
                                       for host, ports in wanted.items()})
        table.clear()
        self.assertEqual((list(table.hosts({})), table.file), ([], None))

    def test_too_many_hosts(self):
        """What cannot be held is written, and a line says that hosts may come again."""
        path = self.several()
        with patched(cba_reader, HELD_MAX=4):
            out = self.convert('nmap-xml', '-r', path=path)
        root = xml.etree.ElementTree.fromstring('\n'.join(out))
        self.assertEqual([host.find('address').get('addr') for host in root.iter('host')],
                         ['1.1.1.1', '2.2.2.2', '10.0.0.1', '1.1.1.1', '10.0.0.1'])
        self.assert_line(self.err, 'cba_reader: warning: 4 results are held', 'may come again')
        with patched(tempfile, TemporaryFile=lambda **_: open('/dev/full', 'wb', buffering=0)):
            with patched(cba_reader, TEXT_PIECE=1):
                out = self.convert('nmap-xml', path=path)
        root = xml.etree.ElementTree.fromstring('\n'.join(out))
        self.assertEqual(sorted(each.get('output') for each in root.iter('script')), [
            'BANNER_FAIL=2 bytes 00ff', 'HTTP/1.0 ]"=1', 'HTTP/1.0 ]"=1'])
        self.assertIn('no room for texts of results in the temporary folder: No space', self.err)

    def test_group_live(self):
        """The same from the scanner, at the end, in all formats that group."""
        stdin = b'5.6.7.8:443\n1.2.3.4:81\n1.2.3.4:80\n1.2.3.4:81\n'
        for args, words in ((['--group'], '1.2.3.4: 80 81\n5.6.7.8: 443\n'),
                            (['--group', '--format', 'csv', '--no-header'], '"80 81"'),
                            (['--group', '--format', 'json'], '"ports": [{"port": 80')):
            with self.subTest(args=args):
                status, out, err = run('cscan.py', '-x', *args, stdin=stdin)
                self.assertEqual((status, err, out.count('\n')), (0, '', 2))
                self.assertIn(words, out)
        with patched(cscan, HELD_MAX=2):
            sink, console, out = self.group_sink('text')
            for host in '1.2.3.4', '5.6.7.8', '1.2.3.4':
                self.result(sink, host, 80)
            sink.close()
        self.assertEqual(''.join(out), '1.2.3.4: 80\n5.6.7.8: 80\n1.2.3.4: 80\n')
        self.assert_line(console.notes[0], 'warning: 2 results are held', 'may come again')

    def group_sink(self, name):
        """A GroupSink -> it, its console, the list that its output goes to."""
        console, out = StubConsole(), []
        console.lines = lambda lines: out.append(''.join(line + '\n' for line in lines))
        console.results, console.look_for_reader = out.append, bool
        writer = cscan.FormatWriter(name, 'cscan', '', cscan.code_names, group=True)
        return cscan.GroupSink(writer, console, self.folder), console, out

    def result(self, sink, host, port):
        sink.write(1, [(cscan.CBA_HEAD, 0, ''), (CBA_STR, 0, '%s:%d' % (host, port))])
        sink.finish(1)

    def test_group_refused(self):
        """What would lose hosts, or has nothing to group, names the way."""
        scan, way = ['-f', '127.0.0.1'], '-o FILE, and cba_reader.py FILE --to nmap-xml'
        for args, part in (
                (scan + ['--group'], '--group: goes without a scan that never ends'),
                (scan + ['--format', 'nmap-xml'], '--format nmap-xml: goes without a scan that'),
                (scan + ['--once', '--state', 's', '--group'], '--group: goes without --state'),
                (['--resume', 's', '--format', 'nmap-xml'], 'nmap-xml: goes without --resume'),
                (scan + ['--once', '--group', '--format', 'xml'],
                 '--group: goes with --format text, json, csv, nmap-xml; xml has a record'),
                (scan + ['--once', '--group', '-o', 'x'], '--group: goes without -o; cba_reader'),
                (scan + ['--once', '--group', '-d', '--log', 'x'], '--group: goes without -d'),
                (['-l', '--group'], '--group: goes without -l'),
                (scan + ['--show', 'closed'], "'closed': open, refused, unreachable, silent with"),
                (scan + ['--show', ','], "',': open, refused"),
                (scan + ['--show', 'refused'], '--show refused: goes without --format text, which'),
                (scan + ['--show', 'silent', '--format', 'zmap'], 'without --format zmap, which'),
                (scan + ['--show', 'silent', '--format', 'naabu'], 'without --format naabu, wh'),
                (scan + ['--once', '--show', 'silent', '--group'], 'without --format text, which'),
                (scan + ['--show', 'silent', '-o', 'x', '-r', 'auto'], 'goes without -r auto: it'),
                (['-x', '--show', 'silent', '-o', 'x'], '--show silent: goes without -x'),
                (['-l', '--show', 'silent'], '--show silent: goes without -l')):
            with self.subTest(args=args):
                said = []
                with patched(cscan, complain=said.append):
                    self.assertEqual(call(cscan.main, args)[:2], (2, ''))
                self.assert_line(''.join(said), 'cscan: ', part)
                if 'never ends' in part or '--state' in part or '--resume' in part:
                    self.assertIn(way, ''.join(said))
        for args, part in ((['--group', '-s'], '--group: goes without -s'),
                           (['--group', '--extract', 'in'], '--group: goes without --extract'),
                           (['--group', '--to', 'list'], '--group: goes with --to json, csv')):
            self.assert_stop(call(cba_reader.main, args + ['x']), 2, 'cba_reader: ', part)

    def test_hint(self):
        """Files with entries of modules only, as the original writes: a line says so."""
        made = Made().head(1, 'rfb').event(1, CBA_STR, 0, 'vnc://1.2.3.4:5900')
        path = self.path('m.cba', made.event(1, CBA_BIT, 6, True).data)
        words = "cba_reader: no entry for an open port itself; there are entries of 'rfb' (1)"
        for args, hinted in (([path], True), (['-r', path], True), (['-s', path], False),
                             (['--module', 'rfb', path], False), (['-r', self.path('s.cba',
                              format_sample().data)], False)):
            with self.subTest(args=args):
                self.assertEqual(words in call(cba_reader.main, args)[2], hinted)

    def test_standard_parsers(self):
        """XML and JSON are valid, also of no records at all."""
        empty = self.path('empty.cba', b'L')
        for name, parse in (('xml', xml.etree.ElementTree.fromstring),
                            ('nmap-xml', xml.etree.ElementTree.fromstring),
                            ('masscan-json', json.loads)):
            with self.subTest(name):
                found = parse('\n'.join(self.convert(name)))
                hosts = found if name == 'masscan-json' else found.findall('host')
                self.assertEqual(len(hosts), 2 if name == 'nmap-xml' else 4)
                none = parse('\n'.join(self.convert(name, path=empty)))
                self.assertEqual(len(none) if name == 'masscan-json' else
                                 len(none.findall('host')), 0)

    def test_times(self):
        """The last statistics before a result; else the first after it; else the file's own."""
        for packets, wanted in (
                ([None, 5, None, 9, None], [5, 5, 9]), ([None], [77]),
                ([-1, None, 1 << 40, None], [77, 77])):
            with self.subTest(packets=packets):
                made = Made().head(0, 'cscan')
                for when in packets:
                    if when is None:
                        made.head(1, '').event(1, CBA_STR, 0, '1.2.3.4:80')
                    else:
                        made.event(0, CBA_INT64, 11, when)
                path = self.path('t.cba', made.data)
                os.utime(path, (77, 77))
                rows = self.convert('csv', '--no-header', path=path)
                self.assertEqual([int(row.split(',')[0]) for row in rows], wanted)

    def test_unique(self):
        """Each result once, over all files; entries of modules, too; never the scanner's own."""
        self.path('s.cba', format_sample().data)
        made = Made().head(0, 'cscan').event(0, CBA_INT64, 11, FORMAT_WHEN)
        made.head(1, 'rfb').event(1, CBA_STR, 0, 'vnc://1.2.3.4:5900').event(1, CBA_BIT, 6, True)
        made.head(1, 'rfb').event(1, CBA_STR, 0, 'vnc://1.2.3.4:5900').event(1, CBA_BIT, 6, True)
        made.event(1, CBA_BIT, 9, True)
        self.path('t.cba', made.data)
        for args, out, again in (
                (['-r', 's.cba', 's.cba'], '1.2.3.4:80\n5.6.7.8:443\n', 4),
                (['--module', 'rfb:WIN', 't.cba'], '1.2.3.4:5900\n', 1),
                (['--module', 'rfb', 't.cba', 't.cba'], 'vnc://1.2.3.4:5900 WIN\n'
                 'vnc://1.2.3.4:5900 WIN HAS_VENCRYPT\n', 2),
                (['--module', 'cscan', 't.cba', 't.cba'], 'STAT_TIME=1795257000\n' * 2, 0),
                (['--to', 'zmap', '-r', 's.cba'], 'saddr,sport\n1.2.3.4,80\n5.6.7.8,443\n', 1)):
            with self.subTest(args=args):
                args = [self.path(arg) if arg.endswith('.cba') else arg for arg in args]
                done = call(cba_reader.main, ['--unique'] + args)
                self.assertEqual(done, (0, out, 'cba_reader: --unique: %d left out that had been '
                                                'there before\n' % again if again else ''))

    def test_to_refuses(self):
        good = self.path('good.cba', CBA_REAL)
        for args, part in (
                (['--to', 'yaml'], "'yaml'"), (['--to', 'xml', '--json'], '--json and --to xml'),
                (['--to', 'xml', '-s'], '--to xml: goes without -s'),
                (['--to', 'xml', '--extract', 'in'], '--to xml: goes without --extract'),
                (['--unique', '-s'], '--unique: goes without -s'),
                (['--unique', '--extract', 'in'], '--unique: goes without --extract'),
                (['--no-header'], '--no-header: goes with --to csv or zmap'),
                (['--no-header', '--to', 'list'], '--no-header: goes with --to csv or zmap')):
            with self.subTest(args=args):
                self.assert_stop(call(cba_reader.main, args + [good]), 2, 'cba_reader: ', part)

    def passed(self, name, *args, **options):
        """cscan.py -x --format -> (status, stdout, stderr) of two results."""
        return run('cscan.py', '-x', '--format', name, *args, stdin=b'1.2.3.4:80\n5.6.7.8:443\n',
                   **options)

    def test_scanner(self):
        """The same lines from cscan.py, with the time of the result; head and tail once."""
        for name, lines in FORMATS.items():
            if not TEST_ALL and name not in ('nmap-xml', 'masscan-json'):
                continue
            with self.subTest(name):
                begin = time.time()
                status, out, err = self.passed(name, '-mt', 1)
                self.assertEqual((status, err), (0, ''))
                numbers = [int(text) for text in re.findall(r'\b[12][0-9]{9}\b', out)]
                self.assertTrue(all(begin - 1 <= each <= time.time() for each in numbers), out)
                out = re.sub(r'\b[12][0-9]{9}\b', str(FORMAT_WHEN), out)
                out = re.sub(r'20\d\d-\d\d-\d\d([T ])\d\d:\d\d:\d\d', r'2026-11-21\g<1>10:30:00', out)
                out = re.sub('args="[^"]*"', 'args="ARGS"', out)
                for now, then in (('cscan 1.0', 'cscan'), ('elapsed="1"', 'elapsed="0"')):
                    out = out.replace(now, then)
                if name == 'xml':
                    out = out.replace('up="2"', 'up="3"').replace('total="2"', 'total="3"')
                if name == 'nmap-xml':
                    out = out.replace(NMAP_PORT % (80, ''), NMAP_PORT % (80, NMAP_EVIL))
                wanted = [line for line in lines
                          if name == 'nmap-xml' or 'banner' not in line.lower()]
                if ',' in wanted:
                    wanted.remove(',')
                self.assertEqual(out.splitlines(), wanted)

    def test_scanner_json(self):
        """All events of all modules; a FILE is where it was written."""
        self.path('mine.py', b"""
import cscan
@cscan.module('mine', codes={3: 'THREE'})
def check(target, out, options):
    out.later('mine://%s' % target)
    out.bit(3)
    out.file('a', b'x')
    out.data(b'y', 5)
    out.int32(int(out.is_text), 9)
""")
        status, out, err = self.passed('json', '-mod', 'print,./mine.py', '-of', 'in', '-mt', 1,
                                       cwd=self.folder)
        lines = [json.loads(line) for line in out.splitlines()]
        self.assertEqual((status, err, [line['module'] for line in lines]),
                         (0, '', ['', 'mine'] * 2))
        self.assertEqual(lines[1]['events'], [
            {'type': 'str', 'code': 0, 'value': 'mine://1.2.3.4:80'},
            {'type': 'bit', 'code': 3, 'name': 'THREE', 'value': True},
            {'type': 'file', 'code': 0, 'value': 'in/a'},
            {'type': 'data', 'code': 5, 'value': 'eQ=='},
            {'type': 'int32', 'code': 9, 'value': 0}])
        self.assertEqual((lines[1]['ip'], lines[1]['port']), ('1.2.3.4', 80))
        self.assertEqual(self.look(self.path('in')), {'a': b'x', 'a.1': b'x'})
        status, out, err = self.passed('zmap', '-mod', './mine.py', '-of', '/proc/x', '-mt', 1,
                                       cwd=self.folder)
        self.assertEqual((status, out, err.count('file a not saved in /proc/x')),
                         (0, 'saddr,sport\n1.2.3.4,80\n5.6.7.8,443\n', 2), err)
        self.assertIn("--format zmap has no place for the entries of 'mine' (2)", err)

    def test_full_disk(self):
        """The file ends as its format wants; what has no room in it goes to stderr."""
        stdin = b''.join(b'1.2.3.4:%d\n' % port for port in range(1000, 1100))
        row = XML_HOST % ('1.2.3.4', 1000, 'syn-ack', '') + '\n'
        limits = {'xml': len('\n'.join(FORMATS['xml'][:3])) + 1 + 8 * len(row) + 9}
        for name in ('xml', 'masscan-json', 'list', 'json')[:None if TEST_ALL else 2]:
            with self.subTest(name), open(self.path('out'), 'w+b') as out:
                done = subprocess.run(
                    tool('cscan.py', '-x', '--format', name), stdout=out, stderr=subprocess.PIPE,
                    input=stdin, timeout=TIMEOUT_S, preexec_fn=lambda: resource.setrlimit(
                        resource.RLIMIT_FSIZE, (limits.get(name, 2000),) * 2))
                out.seek(0)
                text, err = out.read().decode(), done.stderr.decode()
                self.assertEqual(done.returncode, 1)
                self.assertIn('cscan: standard output: File too large', err)
                if 'xml' in name:
                    found = xml.etree.ElementTree.fromstring(text)
                    count = len(found.findall('host'))
                    self.assertEqual(found.find('runstats/hosts').get('up'), str(count))
                elif name == 'masscan-json':
                    count = len(json.loads(text))
                else:
                    count = text.count('\n') - 2 * (name == 'list')
                    self.assertTrue(name == 'json' or text.endswith('\n# end\n'))
                ports = re.findall(r'\b10\d\d\b', '\n'.join(
                    line for line in (text + '\n' + err).splitlines() if '1.2.3.4' in line))
                self.assertGreater(count, 3)
                if name == 'xml':           # the eighth made room for the tail
                    self.assertEqual(count, 7)
                self.assertEqual(set(map(str, range(1000, 1000 + len(set(ports))))), set(ports))

    def full_disk(self, limit, stdin, *args):
        """-x --format nmap-xml to a file that takes so many octets -> (root, stderr)."""
        with open(self.path('out'), 'w+b') as out:
            done = subprocess.run(
                tool('cscan.py', '-x', '--format', 'nmap-xml', *args), stdout=out, input=stdin,
                stderr=subprocess.PIPE, timeout=TIMEOUT_S, preexec_fn=lambda: resource.setrlimit(
                    resource.RLIMIT_FSIZE, (limit,) * 2))
            out.seek(0)
            self.assertEqual(done.returncode, 1)
            self.assertIn(b'cscan: standard output: File too large', done.stderr)
            return xml.etree.ElementTree.fromstring(out.read().decode()), done.stderr.decode()

    def test_full_disk_by_host(self):
        """Hosts that have no room, of one piece or of many, are on stderr, all once."""
        stdin = b''.join(b'1.2.3.%d:%d\n' % pair for pair in itertools.product(
            range(30), (1000, 1001)))
        root, err = self.full_disk(3000, stdin)
        hosts = ['1.2.3.%d' % number for number in range(30)]
        inside = [each.get('addr') for each in root.iter('address')]
        self.assertGreater(len(inside), 2)
        self.assertEqual(root.find('runstats/hosts').get('up'), str(len(inside)))
        outside = re.findall('addr="([0-9.]+)"', err)
        self.assertEqual((inside + sorted(outside, key=ip), err.count('<port ')),
                         (hosts, 2 * len(outside)))
        stdin = b'1.2.3.0:1\n' + b''.join(b'1.2.3.1:%d\n' % port for port in range(1, 2001))
        size = len(self.passed_lines([b'1.2.3.0:1\n']))
        for limit, least in ((100000, 1), (size, 1), (size - 9, 0)):
            root, err = self.full_disk(limit, stdin)
            inside = [each.get('addr') for each in root.iter('address')]
            self.assertEqual(inside, ['1.2.3.0'][:least])
            self.assertEqual(root.find('runstats/hosts').get('up'), str(least))
            self.assertEqual(err.count('</host>'), 2 - least)
            for port in 1, 1000, 2000:
                self.assertIn('portid="%d"' % port, err)

    def test_full_disk_before_the_end(self):
        """It is full when too many hosts are held: the document ends, what comes later is told."""
        def held(most):
            code = ('import sys; sys.path.insert(0, %r); import cscan; cscan.HELD_MAX = %d; '
                    'sys.exit(cscan.main())' % (HERE, most))
            return patched(sys.modules[__name__], tool=lambda name, *args: [
                sys.executable, '-c', code] + list(args))
        stdin = b''.join(b'1.2.3.%d:80\n' % number for number in range(50))
        with held(20):
            root, err = self.full_disk(3000, stdin, '-mt', '1')
        inside = [each.get('addr') for each in root.iter('address')]
        self.assertGreater(len(inside), 2)
        self.assertEqual(root.find('runstats/hosts').get('up'), str(len(inside)))
        self.assertIn('warning: 20 results are held', err)
        outside = re.findall('1\\.2\\.3\\.[0-9]+', err)
        found = sorted(map(ip, inside + outside))
        self.assertEqual(found, list(range(found[0], found[0] + len(found))))
        self.assertGreaterEqual(len(found), 20)
        lines = [b'1.2.3.1:%d\n' % port for port in range(1, 2001)]
        size = len(self.passed_lines(lines))
        with held(2001):                    # a host of many pieces gives its room to the tail
            root, err = self.full_disk(
                size - 60, b''.join(lines) + b'1.2.3.2:80\n' + b'1.2.3.3:80\n' * 9, '-mt', '1')
        self.assertEqual((root.findall('host'), err.count('<port '), err.count('Traceback')),
                         ([], 2001, 0))
        self.assertNotIn('addr="1.2.3.3"', err)       # a row of csv, if it came to that

    def test_group_interrupted(self):
        """Ctrl-C once, SIGTERM, Ctrl-C twice: what was found is written, as a whole document."""
        hosts = Hosts(self)
        port, silent = hosts.serving()[1], hosts.silent('127.0.0.2')[1]
        for signals, status in (([signal.SIGINT], 130), ([signal.SIGTERM], 143),
                                ([signal.SIGINT] * 2, 130)):
            with self.subTest(signals=signals):
                process = start('cscan.py', '-b', next(FREE_PORT), '-bt', 50, '-f', '127.0.0.1-127'
                                '.0.0.2', '-p', '%d,%d' % (port, silent), '--once', '-t',
                                1500 if len(signals) == 1 else 30000, '--format', 'nmap-xml')
                process.stderr.readline()
                time.sleep(0.4)
                for number in signals:
                    process.send_signal(number)
                    time.sleep(0.2)
                out, _ = process.communicate(timeout=20)
                root = xml.etree.ElementTree.fromstring(out.decode())
                self.assertEqual([each.get('portid') for each in root.iter('port')], [str(port)])
                self.assertEqual(process.returncode, status)

    def test_interrupted(self):
        """Ctrl-C once, and twice with something pending: the end of the document is there."""
        hosts = Hosts(self)
        port, silent = hosts.serving()[1], hosts.silent('127.0.0.2')[1]
        for signals, ports in ((2, '%d:9,%d' % (port, silent)), (1, port))[:1 + TEST_ALL]:
            with self.subTest(signals=signals):
                process = start('cscan.py', '-q', '-b', next(FREE_PORT), '-bt', 50, '-f',
                                '127.0.0.1-127.0.0.2', '-p', ports, '-t', 60000, '-m', 20, '-ct', 0,
                                '--format', 'masscan-json')
                head = process.stdout.readline() + process.stdout.readline()
                for _ in range(signals):
                    time.sleep(0.1)
                    process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=20)
                self.assertEqual((process.returncode, err), (130, b''))
                self.assertGreater(len(json.loads((head + out).decode())), 0)

    def test_refuses(self):
        for args, status, part in (
                (['-f', '127.0.0.1', '--format', 'yaml'], 2, "invalid choice: 'yaml'"),
                (['-f', '127.0.0.1', '--format', 'xml', '-o', 'x.cba'], 2,
                 '--format xml: goes without -o: cba_reader.py --to'),
                (['-f', '127.0.0.1', '--format', 'xml', '-d', '--log', 'x'], 2,
                 '--format xml: -d without -o would mix it'),
                (['-l', '--format', 'xml'], 2, '-l: --format goes with a scan only'),
                (['-f', '127.0.0.1', '--no-header', '--format', 'xml'], 2,
                 '--no-header: goes with --format csv or zmap'),
                (['-x', '--skip-unresolved'], 2, '-x: --skip-unresolved goes with a scan'),
                (['-f', 'localhost'], 1, 'a host by name is name:HOST'),
                (['-f', 'name:127.1'], 1, "-f: 'name:127.1': not the name of a host")):
            with self.subTest(args=args):
                said = []
                with patched(cscan, complain=said.append):
                    self.assertEqual(call(cscan.main, args)[:2], (status, ''))
                self.assert_line(''.join(said), 'cscan: ', part)

    def test_jq(self):
        """Each JSON format is what jq takes."""
        if not shutil.which('jq'):
            (self.fail if REQUIRED else self.skipTest)('jq is not there')
        for name, program, found in (
                ('json', 'select(.module == "").ip', '1.2.3.4 5.6.7.8 1.2.3.4'),
                ('naabu', r'"\(.ip):\(.port)"', '1.2.3.4:80 5.6.7.8:443 1.2.3.4:80'),
                ('masscan-json', '.[] | select(.ports[0].status == "open").ip',
                 '1.2.3.4 5.6.7.8 1.2.3.4')):
            with self.subTest(name):
                done = subprocess.run(['jq', '-r', program], stdout=subprocess.PIPE,
                                      input='\n'.join(self.convert(name)).encode(), timeout=60)
                self.assertEqual((done.returncode, done.stdout.decode().split()),
                                 (0, found.split()))

    LIBNMAP = """
import sys
from libnmap.parser import NmapParser
for host in NmapParser.parse_fromfile(sys.argv[1]).hosts:
    for each in host.services:
        print(host.address, each.port, each.protocol, each.state, len(each.scripts_results))
"""
    PYTHON_NMAP = """
import sys, nmap
scanner = nmap.PortScanner()
with open(sys.argv[1]) as file:
    scanner.analyse_nmap_xml_scan(file.read())
for host in scanner.all_hosts():
    print(host, ','.join(map(str, scanner[host].all_tcp())), scanner[host].hostname(),
          scanner[host].state())
"""

    def foreign(self, program, *words):
        """A program, or a library of /usr/bin/python3, that somebody else wrote; else skipped."""
        if words[:1] == ('import',):
            found = not subprocess.call(['/usr/bin/python3', '-c', ' '.join(words)],
                                        stderr=subprocess.DEVNULL)
        else:
            found = shutil.which(program)
        if not found:
            (self.fail if REQUIRED else self.skipTest)('needs ' + program)
        return found

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_python_nmap(self):
        """A host has all its ports, its name and its state."""
        self.foreign('python3-nmap', 'import', 'nmap')
        self.foreign('nmap')
        path = self.path('x', '\n'.join(self.convert('nmap-xml', path=self.several())).encode())
        found = subprocess.check_output(['/usr/bin/python3', '-c', self.PYTHON_NMAP, path],
                                        timeout=60).decode().splitlines()
        self.assertEqual(found, ['1.1.1.1 80,81 a.example up', '10.0.0.1 80,81  up',
                                 '2.2.2.2 80,81 a.example up'])

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_nmaptocsv(self):
        """A row each port, with the host's name and the service."""
        self.foreign('nmaptocsv')
        path = self.path('x', '\n'.join(self.convert('nmap-xml', path=self.several())).encode())
        out = subprocess.check_output(['nmaptocsv', '-x', path, '-f', 'ip-fqdn-port-service'],
                                      timeout=60).decode()
        rows = {tuple(row.replace('"', '').split(';')) for row in out.split('\n')[1:] if row}
        self.assertEqual(rows - {('',)}, {
            (host, name, port, 'http' if (host, port) == ('2.2.2.2', '80') else '')
            for host, name in (('1.1.1.1', 'b.example'), ('2.2.2.2', 'a.example'),
                               ('10.0.0.1', '')) for port in ('80', '81')})

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_ndiff(self):
        """Two scans that found the same do not differ, in whatever order; a port more does."""
        self.foreign('ndiff')
        results = [b'10.0.0.%d:%d\n' % pair for pair in itertools.product(range(9), (22, 80))]
        for name, lines in (('a', results), ('b', results[::-1]), ('c', results[1:])):
            out = self.passed_lines(lines)
            self.path(name, out.encode())
        for other, status in (('b', 0), ('c', 1)):
            done = subprocess.run(['ndiff', self.path('a'), self.path(other)], timeout=60,
                                  stdout=subprocess.PIPE)
            self.assertEqual((done.returncode, b'-22/tcp open' in done.stdout),
                             (status, bool(status)), done.stdout)

    def passed_lines(self, lines):
        status, out, err = run('cscan.py', '-x', '--format', 'nmap-xml', stdin=b''.join(lines))
        self.assertEqual((status, err), (0, ''))
        return out

    MEMORY = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import cscan
table = cscan.HostTable(cscan.code_names)
for number in range(1000000):
    host = '10.%d.%d.%d' % (number % 251, number // 251 % 250, number // 62750)
    record = cscan.Record(None, '', [(cscan.CBA_STR, 0, host + ':80')], {}, number)
    if number % 100 == 0:
        record = record._replace(module='m', events=[(cscan.CBA_STR, 1, 'x' * 1000)])
    table.add(record, cscan.Place(host, 80, '', 'open', ''))
hosts = sum(1 for host in table.hosts({}) for port in host.ports())
print(hosts, table.full(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_memory(self):
        """A million results by host: 100 MB at most, the program among them."""
        hosts, kilobytes = subprocess.check_output(
            [sys.executable, '-c', self.MEMORY, HERE], timeout=300).split()
        self.assertEqual(int(hosts), 1000000)
        if sys.implementation.name == 'cpython':
            self.assertLess(int(kilobytes), 100000)

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_foreign_parsers(self):
        """nmap's DTD by xmllint, and python-libnmap, both as programs of their own."""
        dtd = '/usr/share/nmap/nmap.dtd'
        library = subprocess.call(['/usr/bin/python3', '-c', 'import libnmap'],
                                  stderr=subprocess.DEVNULL)
        if not shutil.which('xmllint') or not os.path.exists(dtd) or library:
            (self.fail if REQUIRED else self.skipTest)('needs xmllint, nmap and python3-libnmap')
        for name, wanted in (
                ('nmap-xml', ['1.2.3.4 80 tcp open 1', '5.6.7.8 443 tcp open 0']),
                ('xml', ['%s tcp open 0' % pair for pair in (
                    '1.2.3.4 80', '1.2.3.4 80', '5.6.7.8 443', '1.2.3.4 80')])):
            with self.subTest(name):
                path = self.path('x', '\n'.join(self.convert(name)).encode())
                check = ['--dtdvalid', dtd] if name == 'nmap-xml' else []
                subprocess.check_call(['xmllint', '--noout'] + check + [path], timeout=60)
                found = subprocess.check_output(['/usr/bin/python3', '-c', self.LIBNMAP, path],
                                                timeout=60).decode().splitlines()
                self.assertEqual(found, wanted)
        for path in self.several(), self.stated():
            path = self.path('x', '\n'.join(self.convert('nmap-xml', path=path)).encode())
            subprocess.check_call(['xmllint', '--noout', '--dtdvalid', dtd, path], timeout=60)

    # ---- hosts by name

    def names(self, known=(), skip=False, **answers):
        """Names that ask no resolver: name=addresses -> (Names, the notes)."""
        def getaddrinfo(host, port, family, kind):
            if host not in answers:
                raise socket.gaierror(socket.EAI_NONAME, 'Name or service not known')
            self.asked.append(host)
            return [(family, kind, 6, '', (each, 0)) for each in answers[host].split()]
        self.asked = []
        patch = unittest.mock.patch.object(socket, 'getaddrinfo', getaddrinfo)
        patch.start()
        self.addCleanup(patch.stop)
        console = StubConsole()
        return cscan.Names(dict(known), skip, console), console.notes

    def test_names(self):
        """In a file and between commas; resolved once; recorded; all addresses count."""
        names, notes = self.names(a='10.0.0.9 10.0.0.1 10.0.0.9', b='10.0.0.2')
        path = self.path('n.txt', b'name:a # first\n10.1.0.0/31\n  name: b\n')
        ranges = cscan.load_all([path, 'name:a, 10.2.0.0,name:b'], '-f', names)
        self.assertEqual(ranges, pairs('10.0.0.1-10.0.0.2 10.0.0.9 10.1.0.0-10.1.0.1 10.2.0.0'))
        self.assertEqual(cscan.load_all(['name:b'], '-xf', names), pairs('10.0.0.2'))
        self.assertEqual(sorted(self.asked), ['a', 'b'])
        self.assertEqual(notes, ['name:a = 10.0.0.1, 10.0.0.9', 'name:b = 10.0.0.2'])
        self.assertEqual(names.told, notes)
        self.assertEqual(names.known, {'a': ['10.0.0.1', '10.0.0.9'], 'b': ['10.0.0.2']})

    def test_names_resumed(self):
        """A resumed scan asks nobody; what was skipped at first is skipped again."""
        names, notes = self.names({'a': ['10.0.0.1'], 'gone': []}, True)
        self.assertEqual(cscan.load_all(['name:a,name:gone'], '-f', names), pairs('10.0.0.1'))
        self.assertEqual((self.asked, notes, names.told), ([], [], []))
        args = cscan.make_parser().parse_args(['-f', 'name:a', '--once', '--state', 'x'])
        args.names, args.lists, args.told = names.known, {}, ['x']
        kept = json.loads(json.dumps(cscan.lasting_args(args)))
        self.assertEqual((kept['f'], kept['names']), (['name:a'], names.known))
        self.assertNotIn('told', kept)

    def test_names_unresolved(self):
        """An error that names it, or skipped with a warning; never so in an exclusion."""
        path = self.path('n.txt', b'10.0.0.1\nname:gone\n')
        names, _ = self.names()
        self.assert_refused([path + ":2: 'name:gone': Name or", '--skip-unresolved leaves'],
                            cscan.load_all, [path], '-f', names)
        names, notes = self.names(skip=True)
        self.assertEqual(cscan.load_all([path], '-f', names), pairs('10.0.0.1'))
        self.assertEqual(notes, ['warning: name:gone: Name or service not known: skipped'])
        for _ in range(2):                  # also one that -f has skipped before
            self.assert_refused(["-xf: 'name:gone': Name or"], cscan.load_all, ['name:gone'],
                                '-xf', names)
            names, _ = self.names(skip=True)

    def test_names_refused(self):
        """What resolvers would take for an address, or is no name, asks nobody."""
        names, _ = self.names(skip=True, **dict.fromkeys(NO_HOST_NAMES + HOST_NAMES, '10.0.0.1'))
        for name in NO_HOST_NAMES:
            with self.subTest(name=name):
                name = name.format('a' * 64)
                self.assert_refused(['not the name of a host'], names.ranges, [(name, 'x')], '-f')
        for name in HOST_NAMES:
            with self.subTest(name=name):
                self.assertEqual(names.ranges([(name, 'x')], '-f'), pairs('10.0.0.1'))
        self.assertEqual(set(self.asked), set(HOST_NAMES))

    def test_names_elsewhere(self):
        """compile_targets.py does not resolve; a scan records what it resolved."""
        path = self.path('n.txt', b'name:localhost\n')
        done = run('compile_targets.py', '-i', path, self.path('out'))
        self.assert_stop(done, 1, "n.txt:1: 'name:localhost': a name has no place here: cscan.py")
        port = Hosts(self).open()[1]
        cba = self.path('x.cba')
        status, out, err = run('cscan.py', '-f', path, '-p', port, '--once', '-o', cba,
                               '-b', next(FREE_PORT), '-bt', 50)
        self.assertIn('cscan: name:localhost = 127.0.0.1\n', err)
        self.assertEqual((status, [entry.dict[0] for entry in cba_entries(cba)]),
                         (0, ['127.0.0.1:%d' % port]))
        self.assertIn((CBA_STR, 20, 'name:localhost = 127.0.0.1'),
                      cba_entries(cba, 'cscan')[0].events)
        wanted = '127.0.0.1 (localhost): %d\n' % port
        self.assertEqual(call(cba_reader.main, ['--group', cba])[1], wanted)
        self.assertEqual(run('cscan.py', '-f', path, '-p', port, '--once', '--group', '-b',
                             next(FREE_PORT), '-bt', 50)[1], wanted)


# ==== Engine ==========================================================================

FREE_PORT = itertools.count(20000 + os.getpid() % 9000)    # source ports of tests, below ephemeral


def columns(targets) -> 'cscan.Columns':
    """(host, port) pairs as a source of an engine."""
    hosts, ports = zip(*targets) if targets else ((), ())
    return cscan.Columns([(list(hosts), list(ports))])


def awaited(engine) -> 'list[tuple[str, int]]':
    """Targets of what is under way."""
    return [cohort.targets()[sock] for sock, cohort in engine.attempts.items()]


class Engine(unittest.TestCase):
    """Connects, answers, deadlines, local errors: against real sockets of this kernel."""
    kind = cscan.Engine

    def setUp(self):
        self.hosts = Hosts(self)
        self.crew, self.console = StubCrew(), StubConsole()

    def engine(self, targets, timeout_s=0.2, window=8, rate=None, syns=1, port=None, **options):
        """An engine over a list of targets, ready for its methods or run()."""
        pace = cscan.Pace(timeout_s, window, rate, syns)
        engine = self.kind(columns(targets), pace,
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
                self.assertEqual(awaited(engine), [new])
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

    def test_answers_that_come_together(self):
        """Refusals are counted together: what else is among the events, and who waits, is heard."""
        opened, silent = self.hosts.open(), self.hosts.silent()
        closed = [self.hosts.closed() for _ in range(3)]
        engine = self.engine([closed[0], opened, silent] + closed[1:], retries=1)
        engine.launch(5)
        engine.tries = {closed[0]: 1, closed[2]: 1, silent: 1}
        engine.again = dict.fromkeys(closed[1:] + [silent, opened], True)
        late = list(engine.attempts)[2].fileno(), select.EPOLLHUP
        engine.collect(engine.epoll.poll(1) + [late])
        self.assertEqual(self.crew.results, [opened])
        self.assertEqual(engine.answers, {errno.ECONNREFUSED: 3})
        self.assertEqual(len(engine.free), 4)
        self.assertEqual(awaited(engine), [silent])
        self.assertEqual((engine.tries, engine.again), ({silent: 1}, {silent: True}))
        engine.collect([late])
        self.assertEqual((engine.answers, awaited(engine)), ({errno.ECONNREFUSED: 3}, [silent]))

    def test_answers_where_ports_are_forbidden(self):
        """A policy (Landlock, SELinux) that forbids the port of NOWHERE hides no answer."""
        opened, closed, connect = self.hosts.open(), self.hosts.closed(), cscan.CONNECT
        engine = self.engine([opened, closed, self.hosts.silent()])
        engine.launch(3)
        with patched(cscan, CONNECT=lambda sock, to: (
                errno.EACCES if to == cscan.NOWHERE else connect(sock, to))):
            engine.collect(engine.epoll.poll(1))
        self.assertEqual((self.crew.results, engine.answers), ([opened], {errno.ECONNREFUSED: 1}))
        self.assertEqual(len(engine.attempts), 1)

    def test_cohort_that_stays_whole(self):
        """It is used again as it is, for other targets, until something of it ends."""
        silent = [self.hosts.silent() for _ in range(6)]
        engine = self.engine(silent[:4] + [self.hosts.closed()] + silent[4:], window=2)
        engine.launch(2)
        first = engine.cohorts[0]
        self.pass_deadline(engine)
        self.assertEqual(engine.turn_over(2), 2)
        self.assertIs(engine.cohorts[0], first)
        self.assertEqual((awaited(engine), engine.timeouts), (silent[2:4], 2))
        self.pass_deadline(engine)
        self.assertEqual(engine.turn_over(1), 1)    # refused, and one given up
        engine.collect(engine.epoll.poll(1))
        self.assertEqual((engine.timeouts, engine.answers), (4, {errno.ECONNREFUSED: 1}))
        engine.launch(2)
        self.assertIsNot(engine.cohorts[-1], first)
        self.assertEqual(awaited(engine), silent[4:])
        self.pass_deadline(engine)
        self.assertEqual(engine.turn_over(2), 0)
        self.assertEqual((engine.timeouts, engine.attempts, len(engine.free)), (6, {}, 2))

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
                self.assertEqual(awaited(engine), [silent])
                self.assertEqual(next(iter(engine.attempts)).fileno(), fd)
                engine.collect(late)        # forced: the old attempt's event comes now
                self.assertEqual(awaited(engine), [silent])
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

    def test_source_address_gone(self):
        """Nets that cannot be reached are answers, but not for want of the source address."""
        for gone in (False, True):
            with self.subTest(gone=gone), patched(
                    cscan, CONNECT=lambda sock, to: errno.ENETUNREACH,
                    has_address=lambda address: not gone):
                engine = self.engine([('127.0.0.1', 9)], address='127.0.0.1')
                engine.launch(1)
                self.assertEqual((engine.answers, engine.locals, engine.parked), (
                    ({}, {errno.EINVAL: 1}, 1) if gone else ({errno.ENETUNREACH: 1}, {}, 0)))
        self.assertEqual([cscan.has_address(each) for each in ('127.0.0.1', '192.0.2.1')],
                         [True, False])
        with patched(socket.socket, connect=unittest.mock.Mock(side_effect=OSError(
                errno.ENETUNREACH, 'x'))):
            self.assertEqual([cscan.has_address(each) for each in ('127.0.0.1', '0.0.0.0')],
                             [False, True])

    def test_source_address_changes(self):
        """All sockets get the new one; what is under way is sent again, or has been answered."""
        opened, silent = self.hosts.open(), [self.hosts.silent() for _ in range(2)]
        engine = self.engine([opened] + silent, address='127.0.0.1')
        engine.home = unittest.mock.Mock(find=lambda: '127.0.0.2', changed=lambda: True)
        engine.launch(3)
        port = engine.port
        engine.tick()
        self.assertEqual({sock.getsockname() for sock in engine.socks.values()},
                         {('127.0.0.2', port)})
        self.assertEqual((self.crew.results, engine.attempts, engine.lost), ([opened], {}, 2))
        self.assertIn('the source address is 127.0.0.2 now, 3 connects', self.console.notes[-1])
        engine.tick()                       # the same again is no change
        self.assertEqual(len(self.console.notes), 1)
        engine.now += 1
        engine.launch(3)
        self.assertEqual(sorted(awaited(engine)), sorted(silent))
        self.pass_deadline(engine)
        engine.turn_over(0)
        self.assertEqual((engine.timeouts, engine.opened, len(engine.cohorts)), (2, 1, 0))

    def test_source_address_flaps(self):
        """Soon after a change another is the last; later it is followed again."""
        engine = self.engine([self.hosts.closed(), self.hosts.silent()], address='127.0.0.1')
        home = unittest.mock.Mock(find=lambda: next(found), changed=lambda: True)
        for sooner, expected in ((0, ['127.0.0.2', '127.0.0.3']), (2, ['127.0.0.2', '', ''])):
            engine.home, engine.followed, found = home, -math.inf, iter(['127.0.0.2', '127.0.0.3'])
            for address in expected:
                engine.launch(2)
                engine.collect(engine.epoll.poll(0))
                engine.real += cscan.FOLLOWS_S + 1 - sooner
                engine.tick()
                self.assertEqual((engine.address, engine.attempts), (address, {}))
                self.assertEqual({sock.getsockname()[0] for sock in engine.socks.values()},
                                 {address or '0.0.0.0'})
        self.assertEqual((engine.home, len(self.console.notes)), (None, 4))
        home.close.assert_called_once_with()

    def test_answered_late_where_ports_are_forbidden(self):
        """Established between deadline and shutdown(), and nobody may ask: such a socket goes."""
        connect = cscan.CONNECT

        def forbid(*hosts):
            return patched(cscan, CONNECT=lambda sock, to: (
                errno.EACCES if to[0] in hosts else connect(sock, to)))
        for credit in 0, 1:
            with self.subTest(credit=credit), forbid(cscan.NOWHERE[0], '127.0.0.9'):
                engine = self.engine([self.hosts.open(), ('127.0.0.9', 9)])
                engine.launch(1)
                self.pass_deadline(engine)
                engine.turn_over(credit)
                engine.source = columns([self.hosts.closed()])
                engine.launch(1)
                engine.collect(engine.epoll.poll(1))
                self.assertEqual(engine.answers[errno.ECONNREFUSED], 1)

    def test_nothing_tried_holds_nothing(self):
        """A round without targets, while one waits after a clash, must not put off the next."""
        engine = self.engine([self.hosts.open()])
        engine.blocked, held = (engine.now, errno.EADDRNOTAVAIL, 1), engine.held
        self.assertEqual((engine.connect_all([], [], []), engine.held), (0, held))

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
        self.assertEqual((awaited(engine), engine.sent), ([silent], 2))
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
        self.assertEqual(engine.bucket.credit(engine.now + 0.0101), 30)     # 30.3, not 29.99

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

    def test_shared_socket(self):
        """A socket that another process holds, too, leaves the epoll set when it is replaced."""
        engine = self.engine([self.hosts.open()], window=1)
        held = os.dup(next(iter(engine.socks)))
        self.addCleanup(os.close, held)
        engine.launch(1)
        engine.collect(engine.epoll.poll(TIMEOUT_S))
        self.assertEqual((engine.opened, len(engine.socks)), (1, 1))
        with open('/proc/self/fdinfo/%d' % engine.epoll.fileno()) as file:
            self.assertEqual(re.findall(r'tfd: *(\d+)', file.read()),
                             [str(fd) for fd in engine.socks])

    def test_forgets_stale_pairs(self):
        """Answered attempts do not fill the memory until their deadline."""
        engine = self.engine([])
        sock = engine.take(1)[0]
        for port in [9] * 400 + [1]:
            cohort = cscan.Cohort([sock] * 256)
            cohort.begin(['127.0.0.1'] * 256, [port] * 256, 1e9, 0, 0)
            cohort.whole = port == 1
            engine.cohorts.append(cohort)
        engine.attempts[sock] = cohort
        engine.tick()
        self.assertEqual([cohort.ports for cohort in engine.cohorts], [[1] * 256])

    def test_source_port_taken(self):
        """One of the next -bt ports is used; with none left, one line says so."""
        taken = self.hosts.listener('0.0.0.0').getsockname()[1]
        engine = self.engine([self.hosts.closed()], port=taken)
        self.assertNotEqual(engine.port, taken)
        with self.assertRaisesRegex(cscan.UserError,
                                    'argument -b: ports %d to %d' % (taken, taken)):
            cscan.Engine(columns([]), engine.pace, port=taken).bind_first(0)

    def canary_run(self, after, every, states, address):
        """Canaries that end in these states, ten packets from one to the next look -> engine."""
        canary = cscan.Canary(*address, after=after, source='', every=every)
        engine = self.engine([], canary=canary)
        for state in states:
            engine.sent += 10
            due = canary.is_due(engine.sent)
            with patched(canary, look=lambda now, code=None: setattr(canary, 'state', state) or 1):
                engine.watch_canary()
            if due and canary.sock:
                canary.sock.close()
        engine.sent = 0
        return engine

    def test_canary_repeated(self):
        """-ce: each failure counts, the first of a row is told, and once that it is over."""
        address = self.hosts.open()
        name = 'canary %s:%d: ' % address
        states = 'open,timed out,timed out,not open,open,open,timed out'.split(',')
        canary = self.canary_run(10, 10, states, address).canary
        self.assertEqual(self.console.notes, [name + 'timed out', name + 'not open',
                                              name + 'open again', name + 'timed out'])
        self.assertEqual((canary.ended, canary.failed, canary.last), (7, 4, 'timed out'))
        self.assertEqual(canary.text(), 'canary 4 of 7 failed, last: timed out')

    def test_canary_turns(self):
        """Every N packets after the first; without -ce once; never two under way."""
        for after, every, ended in ((10, 0, 1), (30, 0, 1), (10, 10, 8), (30, 20, 3), (5, 35, 3),
                                    (90, 1, 0), (80, 1, 1)):
            with self.subTest(after=after, every=every):
                engine = self.canary_run(after, every, ['open'] * 8, self.hosts.open())
                self.assertEqual(engine.canary.ended, ended)
                self.assertEqual(engine.totals().canary,
                                 'canary %d of %d open' % (ended, ended) if every and ended else '')
        canary = cscan.Canary('127.0.0.1', 9, 10, '', 10)
        self.assertTrue(canary.is_due(10))
        canary.state = 'sent'
        self.assertFalse(canary.is_due(1000))

    def test_canary_listener_goes_and_comes(self):
        """Each from a port of its own, none a result, all awaited before the end."""
        listener = self.hosts.listener()
        address = listener.getsockname()
        canary = cscan.Canary(*address, after=1, source='', every=1)
        engine = self.engine([('127.0.0.1', 9)] * 3, canary=canary)
        ports = set()
        for ended, state in enumerate(('open', 'not open', 'open'), 1):
            if state == 'not open':
                listener.close()
            elif ended > 1:
                listener = self.hosts.listener(*address)
            engine.sent += 1
            engine.watch_canary()
            if canary.state == 'sent':      # loopback answers at once, or nearly
                wait_until(lambda: engine.watch_canary() or canary.state != 'sent')
            self.assertEqual((canary.ended, canary.state), (ended, state))
            if state == 'open':
                peer, (_, port) = listener.accept()
                peer.close()
                ports.add(port)
        self.assertEqual(len(ports - {engine.port}), 2)
        self.assertEqual(self.crew.results, [])
        engine.sent = 0

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

    def test_soft_error(self):
        """What ICMP said inside connect() is an answer, and its socket is never met again."""
        class Soft(socket.socket):
            """Has an error that only SO_ERROR tells, unless it is to have none."""
            code = 0

            def getsockopt(self, level, option):
                return self.code

        with patched(cscan.socket, socket=Soft):
            engine = self.engine([self.hosts.silent()], once=True)
            engine.launch(1)
            sock = next(iter(engine.attempts))
            engine.collect([(sock.fileno(), 0)])
            self.assertEqual((len(engine.attempts), dict(engine.answers)), (1, {}))
            Soft.code = errno.EHOSTUNREACH
            engine.collect([(sock.fileno(), 0)])
            self.addCleanup(engine.close)
        self.assertEqual((engine.attempts, dict(engine.answers)), ({}, {errno.EHOSTUNREACH: 1}))
        self.assertEqual(sock.fileno(), -1)
        self.assertNotIn(sock, engine.free)


@unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
class MeteredEngine(Engine):
    """All of that with -mf: whatever happens, each packet has one record of its end."""
    test_conntrack_full_without_ceiling = test_forgets_stale_pairs = None   # they invent packets

    def kind(self, *args, **options):
        engine = cscan.MeteredEngine(*args, **options)
        with tempfile.TemporaryDirectory(prefix='cscan-test.') as folder:
            engine.metrics = cscan.Metrics(os.path.join(folder, 'metrics'), 800, self.console)
            engine.metrics.begin()
        return engine

    def close(self, engine):
        super().close(engine)
        engine.settle()
        engine.metrics.flush()
        octets = os.pread(engine.metrics.fd, 1 << 28, 0)
        os.close(engine.metrics.fd)
        self.compare(engine, octets)

    def compare(self, engine, octets):
        """The totals of the records with those of the engine."""
        found = metrics_totals(octets)
        given_up = engine.answers[errno.ETIMEDOUT]
        for name, expected in (
                ('sent', engine.sent), ('open', engine.opened),
                ('closed', sum(engine.answers.values()) - given_up + engine.selfs),
                ('timeouts', engine.timeouts + engine.repeats + engine.lost + given_up)):
            self.assertEqual(found[name], expected, name)
        ended = found['open'] + found['closed'] + found['timeouts']
        self.assertEqual(found['sent'], ended + len(engine.attempts))
        self.assertLessEqual(set(engine.attempts), set(engine.since))
        self.assertLessEqual(set(engine.since), set(engine.names))
        self.assertEqual(len(engine.names), len(engine.socks))


class AdaptiveRate(unittest.TestCase):
    """-r auto: a Judge before nets made of arithmetic, in a time of their own."""

    TIMEOUT_S = 0.5

    def run_net(self, share, police, seconds, most=100000, errors=lambda now: (0, 0, 0),
                can=math.inf, share_later=None):
        """A scan of so many seconds -> (judge, rates by the tenth of a second, lost, repeated).

        share   of the targets that answer; police: packets a second that come through, or None
        can     packets a second that the scan manages
        """
        draw, now, sent = random.Random(1), 1000.0, 0       # statistics: always the same
        judge, under_way, rates = cscan.Judge(most, 1, now), collections.deque(), []
        rate, lost, repeated = judge.least, set(), 0
        for step in range(int(seconds * 10)):
            now += 0.1
            if share_later is not None and now > 1060:
                share = share_later
            count = int(min(rate, can) / 10)
            through = count if police is None else min(count, police // 10)
            sent += count
            dropped = set(draw.sample(range(count), count - through))
            silent = [(step, each) for each in range(count)
                      if each in dropped or draw.random() >= share]
            lost.update((step, each) for each in dropped if draw.random() < share)
            under_way.append((now, count, silent))
            while under_way and under_way[0][0] + self.TIMEOUT_S <= now:
                then, count, silent = under_way.popleft()
                judge.level_of(then).ended += count
                for target in silent:
                    if judge.silent(then, target, False) == cscan.AGAIN:
                        lost.discard(target)
                        repeated += 1
            new, again = judge.look(now, self.TIMEOUT_S, sent, errors(now))
            lost.difference_update(again)
            repeated += len(again)
            rate = new or rate
            rates.append(rate)
        judge.sigmas = cscan.AUTO_LAST_SIGMAS
        lost.difference_update(judge.look(now, self.TIMEOUT_S, sent, errors(now))[1])
        return judge, rates, len(lost) / max(sent * share, 1), repeated

    def test_polices(self):
        """The rate settles close below what comes through, and what was lost is sent again."""
        rows = [(1.0, 500, 60), (0.5, 500, 300), (0.1, 500, 300), (1.0, 5000, 30), (0.5, 5000, 40)]
        for share, police, seconds in rows + [(0.1, 5000, 120), (0.5, 20000, 90)] * TEST_ALL:
            with self.subTest(share=share, police=police):
                judge, rates, lost, _ = self.run_net(share, police, seconds)
                late = rates[len(rates) // 2:]
                self.assertGreater(sum(late) / len(late), 0.7 * police)
                self.assertLess(sum(late) / len(late), 1.2 * police)
                self.assertLess(lost, 0.05)

    def test_steady_losses(self):
        """Losses that are no matter of the rate do not hold it down."""
        for share, seconds in (1.0, 20), (0.99, 20), (0.95, 20), (0.5, 20), (0.02, 120):
            judge, rates, _, repeated = self.run_net(share, None, seconds, most=2000)
            self.assertEqual(rates[-1], 2000, share)
            self.assertEqual([each.reason for each in judge.decisions
                              if each.reason not in cscan.AUTO_USUAL], [], share)

    def test_no_answers(self):
        """Nothing answers: it goes on slowly, and not beyond AUTO_BLIND."""
        judge, rates, _, _ = self.run_net(0, None, 120)
        self.assertEqual(rates[:100], [200] * 100)
        self.assertEqual(max(rates), 3200)

    def test_fewer_answers_for_good(self):
        """Half of the answers stay away at any rate: that becomes what is usual."""
        judge, rates, _, _ = self.run_net(0.8, None, 200, most=800, share_later=0.4)
        self.assertEqual(min(rates[600:]), 200)
        self.assertGreater(rates[-1], 700)
        self.assertIn('fewer answers at any rate: that is usual now',
                      [each.reason for each in judge.decisions])

    def test_errors(self):
        """Local errors, a lost canary and a full conntrack table bring the rate down."""
        for index, name, factor in ((0, 'local errors', 0.7), (1, 'canary lost', 0.5),
                                    (2, 'conntrack table full', 0.5)):
            def errors(now):
                return tuple(int(at == index and now > 1030) for at in range(3))
            judge, rates, _, _ = self.run_net(1.0, None, 40, most=1000, errors=errors)
            self.assertEqual(rates[295], 1000)
            self.assertAlmostEqual(min(rates[295:]), 1000 * factor)
            self.assertIn(name, [each.reason for each in judge.decisions])

    def test_unused(self):
        """A rate that the scan does not reach is not raised."""
        _, rates, _, _ = self.run_net(1.0, None, 30, can=1000)
        self.assertLess(max(rates), 2500)

    def judge(self, most=1000):
        """A judge whose lowest rate was found to be good: half of the targets answer."""
        judge = cscan.Judge(most, 1, 0.0)
        self.count(judge, 0.5, 1000, 500)
        self.assertEqual(judge.look(1.0, 0.5, 1000, (0, 0, 0)), (400, []))
        return judge

    @staticmethod
    def count(judge, sent, probes, silent, name='target'):
        """So many probes of that time have ended -> what became of the silent ones."""
        judge.level_of(sent).ended += probes
        return collections.Counter(judge.silent(sent, (name, number), 0)
                                   for number in range(silent))

    def test_loss_sends_again(self):
        """What was silent in the level, in the one before and in its tail; then each at once."""
        judge = self.judge()
        self.count(judge, 0.9, 10, 5, 'first tail')         # still under way at that rate
        self.count(judge, 1.1, 1000, 500, 'good')
        self.assertEqual(judge.look(2.0, 0.5, 2000, (0, 0, 0)), (800, []))
        self.count(judge, 1.9, 10, 5, 'tail')
        self.assertEqual(self.count(judge, 2.1, 1000, 800, 'lossy'), {cscan.HELD: 800})
        rate, again = judge.look(3.0, 0.5, 3000, (0, 0, 0))
        self.assertAlmostEqual(rate, 800 * 0.4 * cscan.AUTO_MARGIN)
        self.assertEqual(collections.Counter(name for name, _ in again),
                         {'good': 500, 'lossy': 800, 'tail': 5})
        self.assertEqual(collections.Counter(name for name, _ in judge.ended),
                         {'target': 500, 'first tail': 5})
        self.assertEqual(self.count(judge, 2.9, 10, 7), {cscan.AGAIN: 7})
        self.assertEqual(len(judge.release()), 505)
        self.assertEqual(judge.decisions[-1].reason, '40% of the answers came at 800/s')

    def test_what_it_keeps_is_bounded(self):
        """Too many silent ones end as they are, and it says how many; --retries has its own way."""
        judge = self.judge()
        judge.kept = 700
        self.assertEqual(self.count(judge, 1.1, 1000, 900), {cscan.HELD: 700, '': 200})
        self.assertIn(', 200 silent targets were too many to keep',
                      [judge.look(2.0, 0.5, 2000, (0, 0, 0)), judge.decisions[-1].reason][1])
        judge = cscan.Judge(1000, 1, 0.0)
        judge.level_of(1.1).ended += 10
        self.assertEqual(judge.silent(1.1, 'a', 2), '')
        self.assertEqual((judge.level_of(1.1).missed, judge.release()), (1, []))

    def test_release(self):
        """At the end it gives back all that it holds, once."""
        judge = self.judge()
        self.count(judge, 1.1, 1000, 500, 'good')
        judge.look(2.0, 0.5, 2000, (0, 0, 0))
        self.count(judge, 2.1, 100, 50, 'last')
        judge.ended.append('judged')
        self.assertEqual(len(judge.release()), 1051)       # with those of the first level
        self.assertEqual(judge.release(), [])

    def test_ended_levels(self):
        """Silent targets of a level that no probe is under way of any more are let go."""
        judge = self.judge()
        self.count(judge, 0.9, 10, 5)
        judge.look(2.4, 0.5, 1000, (0, 0, 0))
        self.assertEqual((len(judge.levels), judge.ended), (2, []))
        judge.look(2.6, 0.5, 1000, (0, 0, 0))
        self.assertEqual((len(judge.levels), len(judge.ended)), (1, 5))

    def test_errors_at_the_lowest_rate(self):
        """They are no decision each time; nor are those too soon after the last one."""
        judge = cscan.Judge(1000, 1, 0.0)
        for tenth in range(100):
            self.assertEqual(judge.look(tenth / 10, 0.5, 0, (tenth, 0, 0)), (None, []))
        self.assertEqual(len(judge.decisions), 1)
        judge = self.judge()
        self.assertEqual(judge.look(1.4, 0.5, 1000, (1, 0, 0)), (None, []))
        self.assertEqual(judge.look(1.8, 0.5, 1000, (2, 0, 0)), (280, []))

    def test_small_losses(self):
        """Some 1.5 % are never one, however sure; 3 % are one, once that is sure."""
        for answers, probes, loss in ((4925, 10000, False), (4850, 10000, False),
                                      (492500, 1000000, False), (485000, 1000000, True)):
            judge = self.judge()
            judge.good = 1000000, 500000
            self.assertEqual(judge.is_loss(probes, answers, probes / 2), loss, answers)

    def test_memory_fades(self):
        """What is usual now outweighs what was usual long ago."""
        judge = self.judge()
        judge.good, judge.trial = (1000000, 900000), (50000, 25000, [])
        self.count(judge, 1.1, 10000, 1000)
        judge.look(2.0, 0.5, 2000, (0, 0, 0))
        self.assertAlmostEqual(judge.good[1] / judge.good[0], 0.7, places=2)

    def test_cap(self):
        """After a loss the rate is not raised beyond a part of what came, for a minute."""
        judge = self.judge(100000)
        self.count(judge, 1.1, 2000, 1800)
        rate, now, sent = judge.look(2.0, 0.5, 2000, (0, 0, 0))[0], 2.0, 2000
        self.assertEqual(rate, 200)                         # the lowest: 160 would be below it
        rates = []
        for _ in range(100):
            self.count(judge, now + 0.01, 4000, 2000)
            now, sent = now + 1, sent + 100000
            rates.append(judge.look(now, 0.5, sent, (0, 0, 0))[0])
        self.assertEqual(set(rates[:50]), {None})
        self.assertGreater(max(filter(None, rates)), 400)
        self.assertAlmostEqual(next(filter(None, rates)), 220)      # in small steps

    def test_argument(self):
        self.assertEqual(cscan.rate_argument('auto'), cscan.AUTO_MAX)
        self.assertIsInstance(cscan.rate_argument('auto/500.5'), cscan.AutoRate)
        self.assertNotIsInstance(cscan.rate_argument('500'), cscan.AutoRate)
        for text in ('auto/', 'auto/0', 'auto/x', 'autofoo', 'x', '-1'):
            with self.assertRaises(cscan.argparse.ArgumentTypeError, msg=text):
                cscan.rate_argument(text)


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


# ==== Metrics =========================================================================

class MetricsReader(Case):
    """metrics.py: decoding, what is kept, text and page."""
    EACH = [(0xe0, 1000, 7), (0xe0, 1000, 9), (0xe1, 1002, 2, 30), (0xe2, 1002, 2, 2),
            (0xe2, 1002, 1, 0), (0xe0, 1003, -1), (0xe2, 1003, 0, 1), (0xe0, 1003, -2),
            (0xe0, 1003, 5), (0xe4, 1100, 20, 3), (0xe3, 1803, 800), (0xe5, 1804, 1, 1)]

    def tally(self, octets):
        """Octets -> (Records, Tally)."""
        return metrics.read_open(io.BytesIO(octets), 'a file')

    def totals(self, tally):
        """Totals of all columns, by name."""
        names = 'sent failed refused open closed unanswered busy empty events'.split()
        return {name: tally.total(number) for number, name in enumerate(names)
                if tally.total(number)}

    def main(self, *args):
        """metrics.py in this process -> (status, stdout, stderr)."""
        return call(metrics.main, [str(arg) for arg in args])

    def test_original(self):
        """A file of the original, in text and as a page."""
        path, page = self.path('metrics.dat', METRICS_REAL), self.path('page.html')
        self.assertEqual(self.main(path, '-o', page), (0, METRICS_REAL_TEXT, ''))
        self.check_page(self.read('page.html').decode())

    def test_each_tag(self):
        for order in '<>':
            with self.subTest(order=order):
                records, tally = self.tally(metrics_file(*self.EACH, order=order))
                self.assertEqual((records.order, records.timeout), (order, 800))
                self.assertEqual((records.cut, records.damage), ('', ''))
                self.assertEqual(tally.records, len(self.EACH))
                self.assertEqual(self.totals(tally), {
                    'sent': 4, 'failed': 1, 'refused': 1, 'open': 1, 'closed': 2, 'unanswered': 1,
                    'busy': 1, 'events': 2})
                self.assertEqual(tally.at_once, {True: 0, False: 1})
                self.assertEqual(tally.delays, {True: {2: 1}, False: {1: 1, 0: 1}})
                self.assertEqual(tally.waits, {800: 1})
                self.assertEqual(tally.phases[metrics.SENDING], (1, 20, 3))
                self.assertEqual(tally.phases[metrics.EXPIRY], (1, 1, 1))
                self.assertEqual(tally.duration(), 0.804)

    def test_refused_without_answer(self):
        """Refusals at once are answers, also in files that have no such record of them."""
        _, tally = self.tally(metrics_file((0xe0, 5, -1), (0xe0, 5, -1), (0xe2, 6, 1, 0)))
        self.assertEqual(self.totals(tally), {'sent': 2, 'refused': 2, 'closed': 3})
        self.assertEqual(tally.at_once[False], 2)

    def test_cut_at_each_octet(self):
        for order in '<>':
            octets = metrics_file(*self.EACH, order=order)
            ends = list(itertools.accumulate([4] + [
                struct.calcsize('=' + METRICS_RECORDS[tag]) for tag, *_ in self.EACH]))
            for size in range(4, len(octets) + 1):
                records, tally = self.tally(octets[:size])
                whole = sum(end <= size for end in ends) - 1
                self.assertEqual((tally.records, records.end), (whole, ends[whole]), size)
                self.assertEqual(records.cut, '' if size in ends else
                                 'the last record is cut: %d of %d octets' % (
                                     size - ends[whole], ends[whole + 1] - ends[whole]))
                self.assertEqual(records.damage, '')
                if size < 40 and order == '<':
                    status, out, err = self.main(self.path('cut', octets[:size]))
                    self.assertEqual((status, bool(out)), (0, True) if whole else (1, False))
        for size in range(4):
            with self.assertRaisesRegex(metrics.MetricsError, '%d octets, the header' % size):
                self.tally(octets[:size])

    def random_records(self, draw):
        """Runs of records of one kind, of one time and of several, short and long."""
        ms, records = draw.choice((0, 5, 1 << 33)), []
        for _ in range(draw.randrange(1, 30)):
            tag = draw.randrange(0xe0, 0xe6)
            same = draw.random() < 0.3
            for _ in range(draw.choice((1, 1, 2, 3, 20, 300))):
                ms += draw.choice((0, 0, 0, 0, 1, 700))
                fields = draw.choice((-2, -1, 0, 5, 300, 70000)), draw.randrange(4)
                records.append(records[-1] if same and records and records[-1][0] == tag else
                               (tag, ms) + fields[:len(METRICS_RECORDS[tag]) - 2])
        return records

    def test_runs(self):
        """Decoded in runs and blocks of any size: the same as one by one."""
        draw = random.Random(SEED)
        for number in range(60 if TEST_ALL else 8):
            records, order = self.random_records(draw), draw.choice('<>')
            octets = metrics_file(*records, order=order, timeout=draw.choice((1, 800, 3600000)))
            expected = collections.Counter(
                (tag, ms) + ((0,) if tag == 0xe0 and rest[0] >= 0 else tuple(rest))
                for tag, ms, *rest in records)
            for block, most in ((1 << 20, 4096), (40, 4096), (1000, 5)):
                with self.subTest(number=number, block=block), patched(
                        metrics, BLOCK=block, RUN_MAX=most):
                    found = collections.Counter()
                    reader = metrics.Records(io.BytesIO(octets), 'a file')
                    for tag, ms, counts in reader:
                        for fields, count in counts.items():
                            if tag == 0xe0 and fields[0] >= 0:
                                fields = (0,)
                            found[(tag, ms) + fields] += count
                    self.assertEqual((found, reader.end), (expected, len(octets)))

    # what is wrong, octets, part of the message, records before it
    DAMAGED = [
        ('unknown tag', metrics_file((0xe0, 5, 7)) + b'\xe6' + bytes(99),
         'offset 17: 0xe6: a record begins with 0xe0 to 0xe5', 1),
        ('a run of zeros', metrics_file((0xe0, 5, 7), (0xe0, 5, 8)) + bytes(9),
         'offset 30: 0x0: a record', 2),
        ('a leap', metrics_file((0xe0, 5, 7), (0xe0, 5, 7), (0xe0, 1 << 60, 8)),
         'offset 30: a time of 1152921504606846976 ms after one of 5 ms', 2),
        ('back', metrics_file((0xe1, 1 << 32, 0, 1), (0xe3, 3, 1)),
         'offset 21: a time of 3 ms after one of 4294967296 ms', 1),
    ]

    def test_damaged(self):
        """What was before is told, then one line, and the status is 1."""
        for name, octets, words, whole in self.DAMAGED:
            with self.subTest(name):
                records, tally = self.tally(octets)
                self.assertEqual(tally.records, whole)
                status, out, err = self.main(self.path('damaged', octets))
                self.assertEqual((status, out[:8]), (1, 'duration'))
                self.assert_line(err, 'metrics: damaged: ' + words, 'everything before it')

    def test_a_little_back(self):
        """Time that goes back, as workers write in turn and stand still, is taken as it is."""
        for back in (1000, 3600000, 30 * 86400000):
            _, tally = self.tally(metrics_file((0xe0, 1 << 40, 7), (0xe0, (1 << 40) - back, 7),
                                               (0xe0, (1 << 40) + 100, 7)))
            self.assertEqual((self.totals(tally), tally.duration(), tally.paused),
                             ({'sent': 3}, 0.1, 0))

    # octets, what the one line says
    STRANGE_FILES = [
        (b'', '0 octets, the header alone has 4'), (b'\0\0\0', '3 octets'),
        (bytes(4), 'a connect timeout of 0 ms'), (b'\xff' * 4, 'a connect timeout of -1 ms'),
        (b'<html>', 'octet 4 is 0x6c, a record begins with 0xe0 to 0xe5'),
        (b'L\0\0\0\0', 'octet 4 is 0x0'), (b'\x7f' * 4 + b'\xe0', 'a connect timeout of'),
    ]

    def test_no_metrics(self):
        for octets, words in self.STRANGE_FILES:
            with self.subTest(octets=octets):
                path = self.path('strange', octets)
                self.assert_stop(self.main(path), 1, repr(path), 'not a metrics file', words)

    def test_order(self):
        """The other byte order is recognised, also where both make sense."""
        for timeout in (1, 256, 800, 65792, 3600000):   # 65792 = 0x00010100 is one in both
            for order in '<>':
                with self.subTest(timeout=timeout, order=order):
                    octets = metrics_file((0xe0, 123456789, 7), timeout=timeout, order=order)
                    records, tally = self.tally(octets)
                    self.assertEqual((records.order, tally.first), (order, 123456789))

    def test_month(self):
        """Columns grow with the scan, their number and its sums do not."""
        days = [(0xe0, 1000 + hour * 3600000, 7) for hour in range(31 * 24)]
        _, tally = self.tally(metrics_file(*days))
        self.assertLessEqual(len(tally.columns), metrics.COLUMNS)
        self.assertEqual(self.totals(tally), {'sent': len(days)})
        pieces = tally.series(metrics.PIECES)
        self.assertLessEqual(len(pieces), metrics.PIECES)
        self.assertEqual(sum(counts[metrics.SENT] for _, _, counts in pieces), len(days))
        self.assertEqual([end for _, end, _ in pieces[:-1]], [begin for begin, _, _ in pieces[1:]])
        self.assertEqual(pieces[-1][1], tally.duration())

    def test_peak(self):
        """Most in any second from the first record on; failures were not sent."""
        _, tally = self.tally(metrics_file(
            *[(0xe0, 500 + at, 7) for at in (0, 1, 999, 1000, 1001, 1002, 1003, 3000)],
            (0xe0, 3501, -2), (0xe0, 3501, -2), (0xe0, 3501, -2), (0xe0, 3501, -2)))
        self.assertEqual(tally.peak, 4)

    def test_workers_in_turn(self):
        """Two workers write what each did in a tenth: a second is counted whole, and phases add up."""
        blocks = [(0xe0, 5000 + 100 * tenth + at, 7) for tenth in range(5, 3000)
                  for worker in range(2) for at in (0, 99)]
        _, tally = self.tally(metrics_file((0xe0, 5000, 7), *blocks))
        self.assertEqual(tally.peak, 40)
        self.assertLessEqual(len(tally.seconds), metrics.SECONDS)
        blocks = [(0xe4, 1000 + 100 * tenth + worker, 90, 1) for tenth in range(2)
                  for worker in range(2)]
        _, tally = self.tally(metrics_file((0xe0, 900, 7), *blocks))
        self.assertEqual(sum(counts[metrics.SENDING] for counts in tally.columns.values()), 360)
        self.assertRegex(metrics.rows_text(metrics.summary(tally)), r'\nsending +0.36 s +179.1 % of')

    def test_pause(self):
        """A scan that went on later: rates are those of the time in which it ran."""
        resumed = [(0xe0, 1000 + 1000 * at + pause, 7) for pause in (0, 3600000) for at in range(11)]
        for timeout, paused in ((800, 3590000), (3590000, 0)):
            _, tally = self.tally(metrics_file(*resumed, timeout=timeout))
            self.assertEqual((tally.duration(), tally.paused), (3610, paused))
            text = metrics.rows_text(metrics.summary(tally))
            self.assertEqual('paused for 59 min 50 s of it' in text, paused > 0)
            self.assertIn('mean 1.1/s' if paused else 'mean 0.0061/s', text)
        self.check_page(metrics.page(tally, 'a', ''))

    def test_phases(self):
        """A phase counts in all columns that it touched, little before the end of another."""
        rows = [(250, 200, 1), (300, 9999, 2), (300, -5, -5)]
        for more, at, expected in (([], 0, [150, 200, 150]),
                                   ([(4050, 1, 0), (4300, 9999, 0)], 33, [100, 100, 100]),
                                   ([(4050, 1, 0), (4300, 9999, 0)], 31, [0, 0, 100])):
            _, tally = self.tally(metrics_file((0xe0, 0, 7), *[(0xe4,) + row
                                                               for row in rows + more]))
            self.assertEqual([tally.columns.get(number, [0] * 11)[metrics.SENDING]
                              for number in range(at, at + 3)], expected)
        self.assertEqual(tally.phases[metrics.SENDING], (5, 20199, 3))

    def test_numbers(self):
        """Percentiles and texts."""
        counts = {1: 50, 2: 40, 7: 9, 900: 1}
        self.assertEqual([metrics.percentile(counts, part) for part in (50, 51, 90, 99, 100)],
                         [1, 2, 2, 7, 900])
        for function, rows in (
                (metrics.rounded, [(-5, 0), (9999, 9999), (10000, 10000), (12345, 12300),
                                   (3599999, 3590000)]),
                (metrics.clock, [(0, '0 s'), (0.985, '0.985 s'), (9.99, '9.99 s'), (59.6, '1 min'),
                                 (301, '5 min 1 s'), (4000, '1 h 6 min'), (90000, '1 d 1 h')]),
                (metrics.short, [(0, '0'), (0.5, '0.5'), (999, '999'), (5000, '5,000'),
                                 (250000, '250 k'), (1500000, '1.5 M')]),
                (metrics.moment, [(0, '0:00'), (59.96, '1:00'), (3725.5, '1:02:05.5')])):
            for value, expected in rows:
                self.assertEqual(function(value), expected)
        for part, whole, expected in ((0, 5, '0 %'), (5, 5, '100 %'), (1, 3, '33.3 %'),
                                      (0, 0, '0 %'), (1, 5000, '0.02 %'), (1, 10**8, 'below 0.'),
                                      (9999, 10000, 'above 99.9 %')):
            self.assertTrue(metrics.share(part, whole).startswith(expected), (part, whole))

    def test_round_ticks(self):
        for top in (1e-3, 0.02, 0.3, 1, 7, 99, 100, 101, 4096, 333333, 7e9):
            for about in (4, 10):
                step = metrics.steps(top, about)
                self.assertRegex('%e' % step, r'^[125]\.0+e')
                self.assertTrue(about / 2.6 <= top / step <= about * 1.01, (top, about, step))

    def check_page(self, page):
        """Whole, self-contained, and nothing outside the pictures."""
        self.assertEqual(re.findall(r'<script|https?:|@import|url\(|\bnan\b|\binf\b|None', page), [])
        pictures = re.findall(r'<svg.*?</svg>', page, re.S)
        for picture in pictures:
            root = xml.etree.ElementTree.fromstring(picture)
            for each in root.iter():
                for name, most in (('x', metrics.WIDTH), ('y', metrics.HEIGHT)):
                    self.assertTrue(-1 <= float(each.get(name, 0)) <= most, each.attrib)
                if each.tag == 'rect':
                    right = float(each.get('x')) + float(each.get('width'))
                    self.assertLessEqual(right, metrics.WIDTH)
                for x, y in re.findall(r'[ML]([-\d.]+) ([-\d.]+)', each.get('d', '')):
                    self.assertTrue(0 <= float(x) <= metrics.WIDTH, each.attrib)
                    self.assertTrue(0 <= float(y) <= metrics.HEIGHT, each.attrib)
            ticks = [(float(each.get('x')), 3.7 * len(each.text)) for each in root.iter()
                     if each.get('class') == 'tick' and each.get('text-anchor') == 'middle']
            for (left, half), (right, other) in zip(ticks, ticks[1:]):
                self.assertGreater(right - left, half + other + 5, 'labels touch')
        return len(pictures)

    # name, records, how many of the seven charts have something to show
    PAGES = [
        ('each tag', EACH, 7), ('one packet', [(0xe0, 5, 7)], 1),
        ('one answer', [(0xe0, 5, 7), (0xe2, 5, 0, 3)], 3),
        ('no answers', [(0xe0, 5, 7), (0xe3, 805, 800)] * 2, 2),
        ('epoll only', [(0xe1, 5, 0, 9), (0xe1, 6, -1, 9)], 2),
        ('failures only', [(0xe0, 5, -2)], 1),
        ('many events', [(0xe1, 5, 1 << bits, 9) for bits in range(31)], 2),
        ('stragglers', [(0xe2, 5, delay, 2) for delay in [9] * 500 + [999999]], 2),
        ('long delays', [(0xe2, 5, delay, 0) for delay in range(0, 3600000, 90000)], 2),
        ('a week', [(0xe0, 5 + hour * 3600000, 7) for hour in range(24 * 7)], 1),
    ]

    def test_pages(self):
        for name, records, charts in self.PAGES:
            with self.subTest(name):
                _, tally = self.tally(metrics_file(*records))
                page = metrics.page(tally, 'a<b>&.dat', 'cut')
                self.assertEqual(self.check_page(page), charts)
                self.assertEqual(page.count('There are none in this file.'), 7 - charts)
                self.assertIn('a&lt;b&gt;&amp;.dat', page)

    def test_mistakes(self):
        path = self.path('metrics.dat', METRICS_REAL)
        for args, status, words in (
                ([], 2, 'FILE'), ([path, path], 2, 'unrecognized'), ([path, '-o', '-'], 2, '-o -'),
                (['gone'], 1, "'gone': No such file"), (['/'], 1, "'/': Is a directory"),
                ([path, '-o', path], 1, 'that is the metrics file'),
                ([path, '-o', self.folder], 1, 'a folder; the name of a file'),
                ([path, '-o', '/nonexistent/x'], 1, 'no such folder'),
                ([path, '-p'], 2, '-p'), (['--out', path], 2, '--out')):
            with self.subTest(args=args):
                self.assert_stop(self.main(*args), status, 'metrics: ', words)
        self.assertEqual(self.read('metrics.dat'), METRICS_REAL)
        self.assert_stop(self.main(self.path('empty', METRICS_REAL[:4])), 1, 'no records in it')

    def test_streams(self):
        """Standard input; standard output that is full, closed, or has no reader."""
        path = self.path('metrics.dat', METRICS_REAL)
        cut = METRICS_REAL[:-1]
        status, out, err = run('metrics.py', '-', stdin=cut)
        self.assertEqual((status, out.splitlines()[2:8]),
                         (0, METRICS_REAL_TEXT.splitlines()[2:8]))
        self.assert_line(err, 'standard input: the last record is cut: 16 of 17 octets')
        self.assert_stop(run('metrics.py', path, redirect='>/dev/full'), 1, 'No space left')
        self.assert_stop(run('metrics.py', path, redirect='>&-'), 1, 'standard output')
        self.assertEqual(run('metrics.py', path, redirect='| true'), (0, '', ''))


class MetricsWriter(Case):
    """-mf: the file of a scan."""

    def metrics(self, path, before=None):
        made = cscan.Metrics(path, 800.4, StubConsole(), before)
        self.addCleanup(os.close, made.fd)
        made.begin()
        return made

    def test_only_checked(self):
        """What is to be replaced stays until the scan begins."""
        made = cscan.Metrics(self.path('metrics', METRICS_REAL), 800, StubConsole())
        self.addCleanup(os.close, made.fd)
        self.assertEqual(self.read('metrics'), METRICS_REAL)

    def test_workers(self):
        """They append to one file, and when it is full all of them end, with whole records."""
        first = self.metrics(self.path('metrics', METRICS_REAL))
        first.add(0xe3, 1, 800)
        second = first.twin()
        self.addCleanup(os.close, second.fd)
        for ms, worker in enumerate((first, second, second, first), 2):
            worker.add(0xe3, ms, 800)
            worker.flush()
        whole = [(0xe3, ms, 800) for ms in range(1, 6)]
        self.assertEqual(metrics_records(self.read('metrics')), (800, whole))
        size = os.path.getsize(first.path)
        self.assertEqual([worker.mark(9)[:2] for worker in (first, second)],
                         [[size, 9], [size - 13, 9]])
        second.console = StubConsole()
        with self.file_limit(size + 8):
            second.add(0xe3, 6, 800)
            second.flush()
        first.add(0xe3, 7, 800)
        first.flush()
        self.assertEqual(metrics_records(self.read('metrics')), (800, whole))
        self.assertEqual((len(second.console.notes), first.console.notes), (1, []))
        self.assertEqual(second.mark(9)[0], size, 'where --resume finds a whole file')

    def test_torn_by_a_worker(self):
        """What another has written since is not cut off."""
        first = self.metrics(self.path('metrics'))
        second = first.twin()
        self.addCleanup(os.close, second.fd)
        for worker in first, second:
            worker.add(0xe3, 1, 800)
            worker.flush()
        first.take_back(5)
        self.assertEqual(os.path.getsize(first.path), 30)
        second.take_back(0)
        self.assertEqual(os.path.getsize(first.path), 30)
        second.take_back(5)
        self.assertEqual(os.path.getsize(first.path), 25)

    TWO = metrics_file((0xe3, 5000, 800), (0xe1, 5100, 3, 10))
    # what is there, end of the last record that a snapshot knows, octets that stay, what is told
    RESUMED = [
        ('as it was', TWO, 34, 34, ''),
        ('more than the snapshot knows', TWO, 17, 34, ''),
        ('all of it', TWO, 4, 34, ''),
        ('cut', TWO[:-1], 17, 17, '16 octets of a record that had not been written whole: cut off'),
        ('one octet', TWO[:18], 17, 17, '1 octet of a record'),
        ('lost blocks', TWO[:17] + bytes(5000), 17, 17, '5000 octets'),
        ('lost blocks in a record', TWO[:20] + bytes(3), 17, 17, '6 octets'),
        ('gone', None, 17, 4, 'what it held is gone: it begins anew'),
        ('empty', b'', 17, 4, 'what it held is gone'),
        ('shorter', TWO, 35, 34, None), ('another timeout', b'\1' + TWO[1:], 17, 34, None),
        ('text', b'ping\n', 4, 5, None), ('no records behind', TWO + b'x' * 25, 34, 59, None),
    ]

    def test_goes_on(self):
        """--resume: with a whole record, and nothing that another wrote is touched."""
        for name, octets, end, stays, words in self.RESUMED:
            with self.subTest(name):
                path, before = self.path(name, octets), [end, 5000, time.time()]
                if words is None:
                    self.assert_refused((repr(path), 'not as the scan left it'), self.metrics, path,
                                        before)
                    self.assertEqual(self.read(name), octets)
                    continue
                made = self.metrics(path, before)
                self.assertEqual(os.path.getsize(path), stays)
                self.assertEqual(len(made.console.notes), bool(words))
                for note in made.console.notes:
                    self.assert_line(note, repr(path), words)
                twin = made.twin()
                self.addCleanup(os.close, twin.fd)
                self.assertEqual(twin.mark(1)[0], stays)
                made.add(0xe3, 9, 800)
                made.flush()
                self.assertEqual(made.mark(1)[0], stays + 13)
                self.assertEqual(metrics_records(self.read(name))[1][-1], (0xe3, 9, 800))

    def test_goes_on_in_time(self):
        """Times go on by what the wall clock says, never back, and never by more than a month."""
        for name, gone, expected in (
                ('a minute', 60, 65000), ('at once', 0, 5100), ('a clock that was put back', -99, 5100),
                ('a year', 365 * 86400, 5000 + cscan.Metrics.GAP_MAX)):
            with self.subTest(name):
                made = self.metrics(self.path(name, self.TWO), [17, 5000, time.time() - gone])
                self.assertLess(abs(made.shift + time.monotonic() * 1000 - expected), 1000)
                self.assertGreaterEqual(made.shift + time.monotonic() * 1000, expected)
                made.add(0xe3, int(time.monotonic() * 1000) + made.shift, 800)
                made.flush()
                self.assertEqual(call(metrics.main, [made.path])[0], 0)
        self.assertEqual(self.metrics('/dev/null', [0, 5, 5]).shift, 0)

    def test_one_end(self):
        """What had no answer and is sent again later has one record of it; some together, too."""
        engine = cscan.MeteredEngine(columns([]), cscan.plan_pace(520, 800, 10, 90, 0, 0), '127.0.0.1')
        self.addCleanup(engine.close)
        engine.metrics, engine.crew = self.metrics(self.path('metrics')), StubCrew()
        target = '127.0.0.1', 9
        engine.ms = 1000
        engine.judge = types.SimpleNamespace(silent=lambda *args: verdicts.pop())
        verdicts = [cscan.AGAIN, None]
        for _ in range(5):
            engine.new_socket()
        engine.record_sent(engine.free[:3] + engine.free[4:], False)
        engine.ms = 1800
        engine.unanswered(target, engine.free[0])
        engine.lose(target, engine.free[1])
        engine.given_up(target, engine.free[3])         # the connect() itself told so
        engine.lose(target, None)                       # by the judge, after unanswered()
        engine.unanswered(('127.0.0.1', 10), engine.free[4])    # the judge wants it again at once
        self.assertEqual(engine.lost, 3)
        engine.snapshot()
        found = sorted(metrics_records(self.read('metrics'))[1][4:], reverse=True)
        self.assertEqual(found, [(0xe3, 1800, 800)] * 3 + [(0xe3, 1800, 0)])
        self.assertEqual((engine.volleys, list(engine.since)), ({}, [engine.free[2]]))

    def test_volleys(self):
        """Sockets that ended together come again together, or part; each has its own time."""
        engine = cscan.MeteredEngine(columns([]), cscan.plan_pace(520, 800, 10, 90, 0, 0), '127.0.0.1')
        self.addCleanup(engine.close)
        engine.metrics = self.metrics(self.path('metrics'))
        for _ in range(4):
            engine.new_socket()
        socks, engine.free = engine.free, []
        names = [sock.fileno() for sock in socks]
        written, steps = [], (              # ms, sockets connected, those that are not open then
            (1000, (0, 1, 2), (0, 1, 2)), (1001, (0, 1, 2), (0, 1, 2)), (70000, (0, 1, 2), (0, 1)),
            (70100, (0, 1), (0, 1)), (70200, (1, 0, 3), (3, 1)), (70300, (1,), (1, 0, 2)),
            (70400, (0, 1, 2), (0, 1, 2)), (1 << 33, (0, 1, 2), (2, 1, 0)))
        since = {}
        for ms, connected, closed in steps:
            engine.ms = ms
            engine.record_sent([socks[at] for at in connected], False)
            since.update(dict.fromkeys(connected, ms))
            written += [(0xe0, ms, names[at]) for at in connected]
            engine.ms += 5
            with patched(cscan.Engine, collect=lambda self, closed: self.free.extend(
                    socks[at] for at in closed)):
                engine.collect(closed)
            engine.free.clear()
            written += [(0xe2, ms + 5, ms + 5 - since[at], 0) for at in sorted(
                closed, key=lambda at: since[at])]
            self.assertLessEqual(len(engine.idle), len(engine.volleys))
        engine.metrics.flush()
        found = metrics_records(self.read('metrics'))[1]
        self.assertEqual(sorted(found), sorted(written))
        self.assertLessEqual(len(engine.volleys), 1)

    def test_last_mark(self):
        marks = [[17, 5000, 7.5], [30, 5100, 7.6], [4, 6000, 7.7]]
        for snapshots, expected in (
                ([{'metrics': mark} for mark in marks], marks[1]), ([None, {}], None),
                ([None, {'metrics': marks[0]}, {}], marks[0])):
            self.assertEqual(cscan.last_mark(snapshots), expected)

    def test_starts(self):
        """A new file, and what may be replaced: an empty one, and such a file."""
        for before in (None, b'', METRICS_REAL[:4], METRICS_REAL):
            with self.subTest(before=before and len(before)):
                path = self.path('metrics', before)
                made = self.metrics(path)
                made.add(0xe1, 12345, 3, 100)
                made.flush()
                self.assertEqual(metrics_records(self.read('metrics')),
                                 (800, [(0xe1, 12345, 3, 100)]))
                os.remove(path)

    def test_refusals(self):
        """Nothing is replaced that was not made by -mf, and nobody waits for a reader."""
        for before in (b'a', b'10.0.0.0/8\n', METRICS_REAL[:3], b'L' + bytes(99)):
            path = self.path('other', before)
            self.assert_refused((repr(path), 'not replaced'), cscan.Metrics, path, 1, None)
            self.assertEqual(self.read('other'), before)
        os.mkfifo(self.path('pipe'))
        self.assert_refused(('a file was expected',), cscan.Metrics, self.path('pipe'), 1, None)
        self.assert_refused(('Is a directory',), cscan.Metrics, self.folder, 1, None)
        self.metrics(self.path('busy'))
        self.assert_refused(('another program',), cscan.Metrics, self.path('busy'), 1, None)

    def test_disk_full(self):
        """One note, the file ends with a whole record, and nothing gathers any more."""
        made = self.metrics(self.path('metrics'))
        made.add(0xe3, 1, 800)
        made.flush()
        with self.file_limit(25):
            for _ in range(3):
                made.add(0xe3, 2, 800)
                made.flush()
        self.assertEqual(metrics_records(self.read('metrics')), (800, [(0xe3, 1, 800)]))
        self.assertEqual(made.records, [])
        note, = made.console.notes
        self.assert_line(note, repr(made.path), 'File too large', 'the scan goes on')

    def test_scan(self):
        """The records of a scan are the scan's own totals, and metrics.py reads them."""
        hosts = Hosts(self)
        path = self.path('metrics')
        opened, silent = hosts.open()[1], hosts.silent()[1]
        status, _, err = run('cscan.py', '-f', '127.0.0.0/28', '-p', '9,%d,%d' % (opened, silent),
                             '--once', '-ct', 0, '-t', 150, '-mf', path, '-b', next(FREE_PORT))
        self.assertEqual(status, 0)
        self.assertRegex(err, r'48 packets in .*: 1 open, 46 refused, 1 without answer\n$')
        octets = self.read('metrics')
        self.assertEqual(metrics_totals(octets),
                         {'sent': 48, 'open': 1, 'closed': 46, 'timeouts': 1})
        timeout, records = metrics_records(octets)
        self.assertEqual(timeout, 150)
        wait, = [record[2] for record in records if record[0] == 0xe3]
        self.assertGreaterEqual(wait, 149)
        times = [record[1] for record in records]
        self.assertEqual(times, sorted(times))
        sent = sum(record[3] for record in records if record[0] == 0xe4)
        self.assertLessEqual(sent, 48)          # those that were answered at once had no phase
        status, out, err = call(metrics.main, [path])
        self.assertEqual((status, err), (0, ''))
        self.assertRegex(out, r'packets +48 .*\nanswers +47  97.9 % of packets\n  open +1 ')
        self.assertRegex(out, r'\ntimed out +1 ')

    def test_scan_of_workers(self):
        """-w: one file, its totals are those of all workers."""
        port = Hosts(self).open()[1]
        status, _, err = run('cscan.py', '-f', '127.0.0.0/26', '-p', '9,%d' % port, '--once', '-ct',
                             0, '-w', 2, '-mf', self.path('metrics'), '-b', next(FREE_PORT))
        self.assertEqual(status, 0)
        self.assertRegex(err, r'128 packets in .*: 1 open, 127 refused, 0 without answer\n$')
        self.assertEqual(metrics_totals(self.read('metrics')),
                         {'sent': 128, 'open': 1, 'closed': 127})
        status, out, err = call(metrics.main, [self.path('metrics')])
        self.assertEqual((status, err), (0, ''))
        self.assertRegex(out, r'packets +128 ')

    def test_failed_start(self):
        """A state file that is there already: the metrics that belong to it stay."""
        path = self.path('metrics', METRICS_REAL)
        done = run('cscan.py', '-q', '-f', '127.0.0.1', '-p', 9, '--once', '-mf', path, '--state',
                   self.path('state', b'x'), '-b', next(FREE_PORT))
        self.assert_stop(done, 1, '--state', 'is there already')
        self.assertEqual(self.read('metrics'), METRICS_REAL)

    def test_full_from_the_start(self):
        """No room for a single record: the scan does not suffer."""
        status, out, err = run('cscan.py', '-q', '-f', '127.0.0.0/28', '-p', 9, '--once', '-ct', 0,
                               '-mf', '/dev/full', '-b', next(FREE_PORT))
        self.assertEqual((status, out), (0, ''))
        self.assert_line(err, "cscan: -mf '/dev/full': No space left on device: metrics end here")


# ==== Long scans ======================================================================

class Shards(Case):
    """--shard: parts that nobody has to agree upon."""

    def test_parts(self):
        """The union is everything, no two have anything in common, and all are as large."""
        space = cscan.Space(pairs('10.0.0.0-10.0.0.15 10.9.0.1-10.9.0.7'), [(80, 1), (443, 2), (22, 1)])
        everything = sorted(space.once(7))
        self.assertEqual(len(set(everything)), space.size)
        for count in list(range(1, 18)) + [23, 67, space.size, space.size + 1, 997]:
            with self.subTest(count=count):
                parts = [list(space.once(7, space.share((index, count))))
                         for index in range(count)]
                self.assertEqual(sorted(itertools.chain(*parts)), everything)
                sizes = {len(part) for part in parts}
                self.assertLessEqual(max(sizes) - min(sizes), 1)

    def test_workers_of_a_shard(self):
        """A worker's shard of the shard, from a position on: the rest of all, each once."""
        space = cscan.Space(pairs('10.0.0.0-10.0.0.63'), [(80, 1)])
        order = list(space.once(3))
        for count, workers, begin in itertools.product((1, 2, 5), (1, 2, 3, 80), (0, 1, 4)):
            with self.subTest(count=count, workers=workers, begin=begin):
                rest = []
                for index, number in itertools.product(range(count), range(workers)):
                    args = types.SimpleNamespace(once=True, shard=(index, count), w=workers, seed=3)
                    whole = list(cscan.make_source(args, space, number, None))
                    late = list(cscan.make_source(args, space, number, {'position': begin}))
                    self.assertEqual(late, whole[begin:])
                    rest += whole
                self.assertEqual(sorted(rest), sorted(order))

    def test_workers_differ(self):
        """Machines may have different numbers of workers, and still share the targets."""
        space = cscan.Space(pairs('10.0.0.0-10.0.0.63'), [(80, 1)])
        found = []
        for index, workers in enumerate((1, 3, 2)):
            args = types.SimpleNamespace(once=True, shard=(index, 3), w=workers, seed=3)
            for number in range(workers):
                found += cscan.make_source(args, space, number, None)
        self.assertEqual(sorted(found), sorted(space.once(3)))

    # --shard, --shards, variables, what find_shard gives or the words of its one line
    FOUND = [
        (None, None, {}, (0, 1)),
        ((2, 5), None, {'SLURM_ARRAY_TASK_ID': '1'}, (2, 5)),
        ('auto', None, dict(ID=1, MIN=1, COUNT=4), (0, 4)),
        ('auto', None, dict(ID=4, MIN=1, COUNT=4), (3, 4)),
        ('auto', None, dict(ID=0, MIN=0, COUNT=3), (0, 3)),
        ('auto', None, dict(ID=7, MIN=1, COUNT=4, STEP=2), (3, 4)),
        ('auto', None, dict(ID=6, MIN=1, COUNT=4, STEP=2), 'SLURM_ARRAY_TASK_ID=6'),
        ('auto', None, dict(ID=9, MIN=1, COUNT=4), 'SLURM_ARRAY_TASK_ID=9, the array has 4'),
        ('auto', None, dict(ID=0, MIN=1, COUNT=4), 'no shard has this number'),
        ('auto', None, dict(ID=1, MIN=1), "SLURM_ARRAY_TASK_COUNT=''"),
        ('auto', None, dict(ID='x', MIN=1, COUNT=4), "SLURM_ARRAY_TASK_ID='x'"),
        ('auto', None, dict(ID='-1', MIN=1, COUNT=4), "SLURM_ARRAY_TASK_ID='-1'"),
        ('auto', None, {}, 'SLURM_ARRAY_TASK_ID is not set'),
        ('auto', None, {'PARALLEL_SEQ': '1'}, 'how many there are with --shards N'),
        ('auto', 4, {'JOB_COMPLETION_INDEX': '0'}, (0, 4)),
        ('auto', 4, {'JOB_COMPLETION_INDEX': '3'}, (3, 4)),
        ('auto', 4, {'JOB_COMPLETION_INDEX': '4'}, 'JOB_COMPLETION_INDEX=4 with --shards 4'),
        ('auto', 4, {'PARALLEL_SEQ': '1'}, (0, 4)),
        ('auto', 4, {'PARALLEL_SEQ': '4'}, (3, 4)),
        ('auto', 4, {'PARALLEL_SEQ': '5'}, 'PARALLEL_SEQ=5 with --shards 4'),
        ('auto', 4, {'PARALLEL_SEQ': '0'}, 'no shard has this number'),
        ('auto', 4, {'PARALLEL_SEQ': ''}, "PARALLEL_SEQ=''"),
        ('auto', 4, {}, 'neither JOB_COMPLETION_INDEX nor PARALLEL_SEQ is set'),
        ('auto', 4, {'JOB_COMPLETION_INDEX': '0', 'PARALLEL_SEQ': '1'}, 'both'),
    ]

    def test_auto(self):
        for shard, shards, variables, expected in self.FOUND:
            with self.subTest(shards=shards, variables=variables):
                environ = {name if name.isupper() and '_' in name else 'SLURM_ARRAY_TASK_' + name:
                           str(value) for name, value in variables.items()}
                args = types.SimpleNamespace(shard=shard, shards=shards)
                if isinstance(expected, str):
                    self.assert_refused([expected], cscan.find_shard, args, environ)
                else:
                    self.assertEqual(cscan.find_shard(args, environ), expected)

    MISTAKES = [
        (['--shard', '1/2'], '--shard: goes with --once'),
        (['--once', '--shard', '0/2'], "--shard: '0/2': I/N was expected"),
        (['--once', '--shard', '3/2'], "--shard: '3/2': I/N was expected"),
        (['--once', '--shard', '1/0'], "--shard: '1/0'"),
        (['--once', '--shard', '1'], "--shard: '1': I/N was expected, 1/N to N/N, or auto"),
        (['--once', '--shard', '1/2', '--shards', '2'], '--shards 2: goes with --shard auto'),
        (['--state', 'x'], '--state: goes with a scan of --once'),
        (['--once', '-l', '--state', 'x'], '--state: goes with a scan of --once'),
        (['--once', '-xf', '-', '--state', 'x'], '--state: standard input'),
        (['--resume', 'x'], '--resume: takes all options from its file, but -q, -d and --status; -f'),
        (['--once', '-w', '0'], "-w: '0': a whole number from 1 to 64"),
        (['--once', '-w', 'many'], "-w: 'many'"),
        (['-l', '-w', '2'], '-w 2: goes with a scan only'),
    ]

    def test_mistakes(self):
        for args, words in self.MISTAKES:
            with self.subTest(args=args):
                parser, err = cscan.make_parser(), io.StringIO()
                with patched(cscan, complain=err.write), self.assertRaises(SystemExit) as left:
                    given, extra = parser.parse_known_args(['-f', '127.0.0.1'] + args)
                    cscan.check_args(parser, given, extra)
                self.assertEqual(left.exception.code, 2)
                self.assert_line(err.getvalue(), words)

    def test_seed_of_shards(self):
        """The same command gives the same order anywhere, other targets another."""
        def listed(*args):
            found, err = [], []
            console = types.SimpleNamespace(
                lines=found.extend, progress=err.append, note=err.append, gone=False, failed='')
            parser = cscan.make_parser()
            given = parser.parse_args(['-l', '--once', *args])
            signals = types.SimpleNamespace(take_hangup=lambda args, console: None)
            self.assertEqual(cscan.run(given, console, signals), 0)
            return found, err
        first, second = (listed('-f', '10.0.0.0/24', '--shard', part)[0] for part in ('1/2', '2/2'))
        self.assertEqual(len(set(first) | set(second)), 256)
        self.assertEqual(first, listed('-f', '10.0.0.0-10.0.0.255', '--shard', '1/2')[0])
        self.assertNotEqual(first, listed('-f', '10.0.0.0/24', '--shard', '1/2', '--seed', '5')[0])
        self.assertEqual(listed('-f', '10.0.0.1', '--shard', '2/2'),
                         ([], ['shard 2/2 is empty: the scan has 1 target']))


class KeepingCrew(StubCrew):
    """A crew whose results are settled when the test says so."""
    passed = done = 0

    def accepted(self):
        return len(self.results)

    def settled(self):
        return self.done


LISTS = {option: ['00', '1 address'] for option in ('-f', '-xf', '-p')}
SNAPSHOT = dict(dict.fromkeys(cscan.KEPT_COUNTERS, 0), position=0, drawn=0, passed=0, elapsed=1.5,
                done=False, waiting=[], answers=[], locals=[])


class StateSink(StubSink):
    """Counts what a Keeper asks of it."""
    flushed = 0

    def flush(self):
        self.flushed += 1

    def sync(self):
        return True


def close_state(state):
    """Let others use the file: the memory holds it, too."""
    state.memory.close()
    os.close(state.fd)


class EngineCase(Case):
    """A test with engines, as class Engine makes them."""
    kind, engine, close = Engine.kind, Engine.engine, Engine.close
    pass_deadline = Engine.pass_deadline

    def setUp(self):
        super().setUp()
        self.hosts = Hosts(self)
        self.crew, self.console = StubCrew(), StubConsole()


class State(EngineCase):
    """--state and --resume: nothing is lost at any moment, nothing counts before it is written."""

    def test_slots_torn(self):
        """Killed at any octet of writing: the value before, or the new one."""
        size = 80
        memory = bytearray(2 * size)
        pair = cscan.SlotPair(memory, 0, size)
        self.assertIsNone(pair.read())
        values = [{'a': 1}, ['longer', 2, 'x' * 20], 'third', {'fourth': None}]
        for before, value in zip([None] + values, values):
            old = bytes(memory)
            self.assertEqual(pair.write(value), '')
            new = bytes(memory)
            begin, end = (pick(at for at in range(2 * size) if old[at] != new[at])
                          for pick in (min, max))
            for at in range(begin, end + 1):
                for torn in (new[:at] + old[at:], old[:at] + new[at:]):
                    reader = cscan.SlotPair(bytearray(torn), 0, size)
                    self.assertIn(reader.read(), (before, value), at)
                    self.assertEqual(reader.read(), value if torn == new else reader.read())
            reader = cscan.SlotPair(bytearray(new), 0, size)
            self.assertEqual((reader.read(), reader.number), (value, pair.number))

    def test_slots_damaged(self):
        """Any octet changed in the newer slot: the older one counts, and writing goes on."""
        size = 60
        memory = bytearray(2 * size)
        pair = cscan.SlotPair(memory, 0, size)
        for value in ('old', 'new'):
            pair.write(value)
        for at in range(cscan.SLOT_HEAD.size + len('"new"')):
            for bits in (1, 0x80, 0xff):
                spoiled = bytearray(memory)
                spoiled[at] ^= bits             # number 2 stands in the first slot
                reader = cscan.SlotPair(spoiled, 0, size)
                self.assertEqual(reader.read(), 'old', (at, bits))
                reader.write('newest')
                self.assertEqual(cscan.SlotPair(spoiled, 0, size).read(), 'newest')

    def test_slots_full(self):
        """What does not fit, or finds no disk space, is told, and the value before stays."""
        pair = cscan.SlotPair(bytearray(120), 0, 60)
        self.assertEqual(pair.write('x' * 42), '')      # and quotes: exactly
        self.assertEqual(pair.write('x' * 43), '45 octets do not fit into 44')
        self.assertEqual(pair.read(), 'x' * 42)
        fd = os.open(self.path('slots'), os.O_RDWR | os.O_CREAT)
        self.addCleanup(os.close, fd)
        os.ftruncate(fd, 120)
        pair = cscan.SlotPair(mmap.mmap(fd, 120), 0, 60, fd)
        pair.write('before')

        def full(*args):
            raise OSError(errno.ENOSPC, 'No space left on device')
        with patched(os, posix_fallocate=full):
            self.assertEqual([pair.write('new') for _ in range(3)], ['No space left on device'] * 3)
        self.assertEqual(pair.read(), 'before')
        self.assertEqual(pair.write('new'), '')
        self.assertEqual(pair.read(), 'new')

    def state(self, workers=1, name='state', **config):
        """A state file that a scan has begun."""
        state = cscan.StateFile(self.path(name), '--state', workers)
        state.begin(dict({'args': {'names': {}}, 'lists': LISTS,
                          'boot_id': cscan.read_boot_id()}, **config))
        return state

    def test_after_power_loss(self):
        """Of another boot only what was forced to the disk before counts."""
        for boots, expected in ((('a', 'a'), 2), (('a', 'b'), 1), (('', ''), 1)):
            with self.subTest(boots=boots):
                with patched(cscan, read_boot_id=lambda: boots[0]):
                    state = self.state(2, 'state%s%s' % boots)
                    for live, synced in state.workers:
                        synced.write(dict(SNAPSHOT, sent=1))
                        live.write(dict(SNAPSHOT, sent=2))
                    close_state(state)
                with patched(cscan, read_boot_id=lambda: boots[1]):
                    state = cscan.StateFile(state.path, '--resume')
                    state.load()
                    self.assertEqual([each['sent'] for each in state.snapshots], [expected] * 2)
                    state.begin({'args': {'names': {}}, 'lists': LISTS, 'boot_id': boots[1]})      # from now on the live ones
                    close_state(state)
                    state = cscan.StateFile(state.path, '--resume')
                    state.load()
                    self.assertEqual([each['sent'] for each in state.snapshots], [expected] * 2)
                    close_state(state)

    def refuse(self, name, *words, workers=None):
        self.assert_refused(words, lambda: cscan.StateFile(
            self.path(name), '--resume', workers).load())

    def test_files_refused(self):
        """What is no state file, or is cut or in use, is told in one line and not changed."""
        close_state(self.state(2))
        whole = os.path.getsize(self.path('state'))
        self.refuse('gone', 'No such file')
        self.refuse('.', 'Is a directory')
        self.refuse('state', 'is there already', workers=1)
        for name, octets in (('empty', b''), ('text', b'127.0.0.1\n' * 9),
                             ('head', cscan.STATE_MAGIC)):
            self.path(name, octets)
            self.refuse(name, 'cut' if name == 'head' else 'not a state file')
            self.assertEqual(self.read(name), octets)
        for size in (whole - 1, whole + 1, cscan.STATE_START, cscan.STATE_START - 1, 4096, 100):
            os.truncate(self.path('state'), size)
            self.refuse('state', 'cut: it has %d octets' % size)
        os.truncate(self.path('state'), cscan.STATE_PAGE)       # as after a crash at the start
        os.truncate(self.path('state'), whole)
        self.refuse('state', 'no scan has begun with it')
        with patched(cscan, STATE_WAIT_S=0):
            state = self.state(name='used')
            self.refuse('used', 'another scan is using it')
            close_state(state)

    def test_failed_start(self):
        """No state file is left where a scan could not begin."""
        with patched(cscan.SlotPair, write=lambda pair, value: 'No space left on device'):
            self.assert_refused(['--state', 'No space left'], self.state)
        self.assertEqual(os.listdir(self.folder), [])

    def keeper(self):
        state = self.state(name='state%d' % next(FREE_PORT))
        self.crew = KeepingCrew()
        self.sink = StateSink()
        return cscan.Keeper(*state.workers[0], self.crew, self.sink, self.console)

    def test_settled_before_it_counts(self):
        """A snapshot waits for the results before it, and asks for them to be written."""
        keeper = self.keeper()
        engine = self.engine([('127.0.0.1', 9)])
        self.crew.results = ['one', 'two']
        keeper.look(engine)
        self.crew.done = 1
        keeper.look(engine)
        self.assertIsNone(keeper.live.read())
        self.crew.results += ['three']              # found after it: not waited for
        self.crew.done = 2
        keeper.look(engine)
        self.assertEqual((keeper.live.read()['position'], self.sink.flushed), (0, 1))
        engine.real += 100
        engine.drawn = 1
        keeper.look(engine)
        self.assertEqual(keeper.live.read()['position'], 0)
        self.crew.done = 3
        keeper.look(engine)
        self.assertEqual((keeper.live.read()['position'], self.sink.flushed), (1, 2))

    def test_not_written_does_not_count(self):
        """A full disk, a reader that left, results that modules are still at: the state stays."""
        def unsettled():
            self.crew.results = ['one']
        for change in (lambda: setattr(self.sink, 'failed', 'full'),
                       lambda: setattr(self.console, 'failed', 'full'),
                       lambda: setattr(self.console, 'gone', True), unsettled):
            self.console = StubConsole()
            keeper = self.keeper()
            engine = self.engine([])
            keeper.start()
            keeper.look(engine)
            self.assertEqual(keeper.live.read()['done'], False)
            change()
            engine.real += 100
            engine.exhausted, engine.drawn = True, 5
            keeper.look(engine)
            keeper.finish(engine)
            self.assertEqual((keeper.live.read()['position'], keeper.live.read()['done']),
                             (0, False))

    def test_passed_of_all_workers(self):
        """What any worker knew last is what all begin with: for --max-results."""
        state = self.state(3)
        state.snapshots = [{'passed': 5}, {'passed': 9}, None]
        with patched(cscan.Team, fork=lambda team: None):
            for given, passed in ((state, 9), (None, 0)):
                team = cscan.Team([self.engine([]) for _ in range(3)], given, self.crew, None, None)
                self.assertEqual([each.orders[cscan.PASSED] for each in team.workers],
                                 [passed] * 3)
                for reader in team.speaking:
                    os.close(reader)

    def test_state_full_is_told(self):
        """Once for each reason; the scan goes on."""
        keeper = self.keeper()
        engine = self.engine([])
        with patched(cscan.SlotPair, write=lambda pair, value: 'No space left on device'):
            for _ in range(3):
                engine.real += 100
                keeper.look(engine)
        self.assertEqual(len(self.console.notes), 1)
        self.assert_line(self.console.notes[0], 'warning: --state: No space left on device')

    def hard_targets(self):
        """Open, closed and silent targets in random order, each address once."""
        targets = [self.hosts.open('127.0.2.%d' % number) for number in range(1, 20)]
        targets += [self.hosts.silent('127.0.3.%d' % number) for number in range(1, 6)]
        targets += [('127.7.%d.%d' % divmod(number, 256), 9) for number in range(400)]
        random.Random(SEED).shuffle(targets)
        return targets

    def hard_connect(self, draw, sent):
        """connect_ex() that meets local errors; sent gets the targets of the others."""
        def connect(sock, target):
            if target != cscan.NOWHERE and draw.random() < 0.1:
                return draw.choice([errno.EPERM, errno.EADDRNOTAVAIL, errno.ENOBUFS])
            sent.add(target)
            return sock.connect_ex(target)
        return connect

    def account(self, engine, targets, sent):
        """Each target before the position has been sent and ended, or waits and is kept."""
        position = engine.position()
        waiting = {target for _, _, target, _ in engine.waiting}
        live = set(awaited(engine)) | waiting
        self.assertLessEqual(position, engine.drawn)
        for target in targets[:position]:
            if target not in engine.again:
                self.assertNotIn(target, live, 'neither before nor behind the position')
                self.assertIn(target, sent, 'never sent')
        for target in engine.again:
            self.assertIn(target, live, 'ended, but kept')
        return position

    def one_life(self, targets, snapshot, retries, rounds, draw, sent):
        """Run an engine from a snapshot on for so many rounds -> its snapshot, by way of JSON."""
        begin = snapshot['position'] if snapshot else 0
        engine = self.engine(targets[begin:], window=30, once=True, retries=retries,
                             quota=len(targets) if retries else None)
        engine.keeper = True
        if snapshot:
            engine.resume(snapshot)
        connect = self.hard_connect(draw, sent)
        for _ in range(rounds):
            with patched(cscan, CONNECT=connect):
                engine.collect(engine.epoll.poll(0))
                engine.now += 0.06
                credit = draw.randrange(40)
                credit -= engine.turn_over(credit)
                if credit > 0:
                    engine.launch(credit)
                if draw.random() < 0.05:
                    engine.suspects.append((engine.now - 0.1, engine.now))
            self.account(engine, targets, sent)
            if engine.exhausted and not engine.attempts and not engine.waiting:
                break
        snapshot = json.loads(json.dumps(engine.snapshot()))
        self.close(engine)
        return snapshot

    def test_no_target_is_lost(self):
        """Local errors, clashes, suspects, retries, deadlines, ends at any moment: all are sent."""
        targets = self.hard_targets()
        for seed, retries in itertools.product(range(SEED, SEED + (50 if TEST_ALL else 5)), (0, 2)):
            with self.subTest(seed=seed, retries=retries):
                draw = random.Random(seed)
                snapshot, sent, lives = None, set(), 0
                while not snapshot or snapshot['position'] < len(targets) or snapshot['waiting']:
                    snapshot = self.one_life(targets, snapshot, retries, draw.randrange(1, 60),
                                             draw, sent)
                    lives += 1
                    self.assertLess(lives, 500)
                self.assertEqual(set(targets) - sent, set())
                self.assertEqual(set(self.crew.results) & set(targets), {
                    target for target in targets if target[0].startswith('127.0.2.')})

    def test_stopped_before_its_retry(self):
        """Ctrl-C: what is to be tried again is kept, where there is a state; else it has ended."""
        for keeper in (True, None):
            engine = self.engine([self.hosts.silent()], once=True, retries=1)
            engine.keeper = keeper
            engine.launch(1)
            engine.stop('interrupted')
            self.pass_deadline(engine)
            engine.turn_over(1)
            self.assertEqual((engine.timeouts, len(engine.again)), (0, 1) if keeper else (1, 0))
            self.assertTrue(engine.finished())

    def test_taken_back(self):
        """What SIGHUP took back is not met again at its deadline, and the position passes it."""
        engine = self.engine([self.hosts.silent(), self.hosts.silent()], once=True)
        engine.keeper = True
        engine.exclusions = types.SimpleNamespace(reread=lambda: 1, bars=lambda host: True,
                                                  barred=[], left=lambda: True)
        engine.progress = types.SimpleNamespace(reopen=lambda: None,
                                                reread=lambda exclusions, new: None)
        engine.launch(2)
        engine.reread()
        self.assertEqual((engine.attempts, engine.position(), engine.barred), ({}, 2, 2))
        self.pass_deadline(engine)
        self.assertEqual(engine.turn_over(2), 0)

    def test_taken_back_where_ports_are_forbidden(self):
        """Was it established just before?  Nobody may ask, so such a socket goes."""
        engine, connect = self.engine([self.hosts.open()]), cscan.CONNECT
        engine.launch(1)
        engine.exclusions = types.SimpleNamespace(bars=lambda host: True)
        before = set(engine.socks.values())
        with patched(cscan, CONNECT=lambda sock, to: (
                errno.EACCES if to == cscan.NOWHERE else connect(sock, to))):
            engine.bar()
        self.assertEqual((set(engine.free) & before, len(engine.free)), (set(), 1))

    def test_snapshot_resumed(self):
        """Counters, tries and what waits come back; the quota is what is left of it."""
        engine = self.engine([('127.7.0.%d' % number, 9) for number in range(50)], quota=40,
                             once=True, retries=3)
        engine.keeper = True
        engine.draw(20)
        engine.tries[('127.7.0.1', 9)] = 2
        engine.wait_for(('127.7.0.1', 9), 5)
        engine.sent, engine.opened = 20, 3
        engine.answers[errno.ECONNREFUSED] = 16
        other = self.engine([], quota=40, once=True, retries=3)
        other.resume(json.loads(json.dumps(engine.snapshot())))
        self.assertEqual((other.quota, other.drawn, other.sent, other.opened), (20, 20, 20, 3))
        self.assertEqual((other.answers, other.tries, other.again), (
            engine.answers, {('127.7.0.1', 9): 2}, {('127.7.0.1', 9): True}))
        self.assertEqual(other.snapshot()['waiting'], [('127.7.0.1', 9, 2)])
        self.assertEqual(other.draw(5), (['127.7.0.1'], [9]))
        killed = self.engine([], once=True)         # again, before it drew as far as the first
        killed.resume(dict(engine.snapshot(), position=5))
        self.assertEqual((killed.snapshot()['position'], killed.snapshot()['drawn']), (5, 20))


class Trust(Case):
    """Files of others: what is read from them, and what is not done."""

    def test_distrust(self):
        """Owner and mode, with and without sudo."""
        rows = [    # uid of the file, gid, mode, our uid, SUDO_UID, trusted
            (1000, 100, 0o644, 1000, '', True), (1001, 100, 0o600, 1000, '', False),
            (0, 0, 0o644, 1000, '', True), (1000, 100, 0o646, 1000, '', False),
            (1000, 100, 0o664, 1000, '', False), (1000, 1000, 0o664, 1000, '', True),
            (0, 100, 0o664, 0, '', False), (1000, 1000, 0o600, 0, '', False),
            (1000, 1000, 0o600, 0, '1000', True), (1000, 1000, 0o600, 1001, '1000', False),
            (1000, 1000, 0o602, 0, '1000', False), (1000, 1000, 0o600, 0, 'x', False)]
        for uid, gid, mode, ours, sudo, trusted in rows:
            with self.subTest(uid=uid, gid=gid, mode=oct(mode), ours=ours, sudo=sudo), \
                    patched(os, geteuid=lambda: ours), patched(os, environ={'SUDO_UID': sudo}):
                status = types.SimpleNamespace(st_uid=uid, st_gid=gid, st_mode=mode)
                self.assertEqual(not cscan.distrust(status), trusted)

    def test_module_file(self):
        """A module file that others can write is not run."""
        path = self.path('mine.py', b'import sys\nsys.harmed = 1\n')
        os.chmod(path, 0o666)
        self.assert_refused([repr(path), 'not run: everyone may write to it'],
                            cscan.load_modules, path)
        self.assertFalse(hasattr(sys, 'harmed'))

    def test_state_file(self):
        """It is the user's alone, no link, no pipe."""
        before = os.umask(0)
        try:
            close_state(cscan.StateFile(self.path('state'), '--state', 1))
            self.assertEqual(os.stat(self.path('state')).st_mode & 0o777, 0o600)
            close_state(cscan.StateFile(self.path('empty', b''), '--state', 1))
            self.assertEqual(os.stat(self.path('empty')).st_mode & 0o777, 0o600)
        finally:
            os.umask(before)
        os.symlink(self.path('state'), self.path('link'))
        os.symlink(self.path('nowhere'), self.path('dangling'))
        os.mkfifo(self.path('pipe'))
        for name, workers, words in (('link', None, 'a symbolic link'), ('link', 1, 'a symbolic'),
                                     ('dangling', 1, 'a symbolic link'),
                                     ('pipe', None, 'a file was expected'),
                                     ('pipe', 1, 'a file was expected')):
            self.assert_refused([words], cscan.StateFile, self.path(name), '--state', workers)
        self.assertFalse(os.path.exists(self.path('nowhere')))
        for mode, words in ((0o600, ''), (0o602, 'everyone may write to it')):
            os.chmod(self.path('state'), mode)
            state = cscan.StateFile(self.path('state'), '--resume')
            self.assertEqual(state.distrust, words)
            close_state(state)

    def changed(self, config=None, snapshot=None, raw=None):
        """load() of a state file with this configuration and snapshot, or raw JSON as the first."""
        path = self.path('state')
        state = cscan.StateFile(path, '--state', 1)
        whole = {'args': {'names': {}}, 'lists': LISTS, 'boot_id': cscan.read_boot_id()}
        state.begin(whole if config is None else config)
        state.workers[0][0].write(SNAPSHOT if snapshot is None else snapshot)
        if raw is not None:
            rest = struct.pack('<IQ', len(raw), 9) + raw
            at = cscan.STATE_PAGE
            state.memory[at:at + 4 + len(rest)] = struct.pack('<I', zlib.crc32(rest)) + rest
        close_state(state)
        state = cscan.StateFile(path, '--resume')
        try:
            return state.load()
        finally:
            close_state(state)
            os.unlink(path)

    def test_damaged(self):
        """Whatever stands in the slots: one line, at once, in little memory."""
        self.assertEqual(sorted(self.changed()), ['args', 'boot_id', 'lists'])
        whole = {'args': {'names': {}}, 'lists': LISTS, 'boot_id': ''}
        bomb = base64.b64encode(zlib.compress(bytes(1 << 26))).decode()
        odd = base64.b64encode(zlib.compress(struct.pack('=II', 9, 3))).decode()
        rows = [
            {'config': {}}, {'config': []}, {'config': 'x'}, {'config': dict(whole, args=[])},
            {'config': dict(whole, args={})}, {'config': dict(whole, lists={'-f': []})},
            {'config': dict(whole, lists=dict(LISTS, **{'-p': ['x']}))},
            {'config': dict(whole, boot_id=1)}, {'config': dict(whole, more=1)},
            {'config': dict(whole, excluded=bomb)}, {'config': dict(whole, excluded='x')},
            {'config': dict(whole, excluded=bomb[:99])}, {'config': dict(whole, excluded=odd)},
            {'config': dict(whole, excluded=5)},
            {'snapshot': {}}, {'snapshot': 7}, {'snapshot': dict(SNAPSHOT, position=-1)},
            {'snapshot': dict(SNAPSHOT, position=True)}, {'snapshot': dict(SNAPSHOT, sent=1.5)},
            {'snapshot': dict(SNAPSHOT, sent=1 << 63)}, {'snapshot': dict(SNAPSHOT, done=0)},
            {'snapshot': dict(SNAPSHOT, elapsed=float('nan'))},
            {'snapshot': dict(SNAPSHOT, elapsed=float('inf'))},
            {'snapshot': dict(SNAPSHOT, answers=[[1]])}, {'snapshot': dict(SNAPSHOT, answers={})},
            {'snapshot': dict(SNAPSHOT, waiting=[['x', 1, 1]])},
            {'snapshot': dict(SNAPSHOT, waiting=[['1.2.3.4', '1', 1]])},
            {'snapshot': dict(SNAPSHOT, metrics=[1])}, {'snapshot': dict(SNAPSHOT, more=1)},
            {'raw': b'[' * 500000}, {'raw': b'9' * 900000}, {'raw': b'\xff'}, {'raw': b'{'},
            {'raw': b'{"args": 1e999}'}, {'raw': b''}]
        for row in rows:
            with self.subTest(row=repr(row)[:80]):
                begun = time.monotonic()
                self.assert_refused([self.path('state')], lambda: self.changed(**row))
                self.assertLess(time.monotonic() - begun, 2)

    def test_slot_number(self):
        path = self.path('state')
        state = cscan.StateFile(path, '--state', 1)
        state.config.number = (1 << 64) - 3
        state.begin({'args': {'names': {}}, 'lists': LISTS, 'boot_id': ''})
        close_state(state)
        state = cscan.StateFile(path, '--resume')
        self.assert_refused(['damaged: slot'], state.load)
        close_state(state)

    def test_workers(self):
        """A file of terabytes is no reason to begin."""
        path = self.path('state', cscan.STATE_MAGIC)
        os.truncate(path, cscan.STATE_START + 65 * cscan.STATE_WORKER)
        self.assert_refused(['damaged', '64 workers'], cscan.StateFile, path, '--resume')

    def test_positions(self):
        """A position that the scan cannot have had is an error, not its end."""
        state = cscan.StateFile(self.path('state'), '--state', 2)
        self.addCleanup(close_state, state)
        args = types.SimpleNamespace(shard=(0, 1), w=2)
        space = cscan.Space([(1, 10)], [(80, 1)])
        rows = [({}, ''), ({'position': 5, 'drawn': 5}, ''), ({'position': 6, 'drawn': 6}, '6'),
                ({'position': 10 ** 15, 'drawn': 10 ** 15}, 'position 1000000000000000'),
                ({'position': 3, 'drawn': 2}, 'position 3'), ({'drawn': 6}, '6 drawn of 5 targets'),
                ({'waiting': [['0.0.0.9', 80, 1]]}, ''),
                ({'waiting': [['0.0.0.11', 80, 1]]}, '0.0.0.11:80 waits'),
                ({'waiting': [['0.0.0.9', 81, 1]]}, '0.0.0.9:81 waits')]
        for changes, words in rows:
            state.snapshots = [None, dict(SNAPSHOT, **changes)]
            with self.subTest(changes=changes):
                if words:
                    self.assert_refused([words], state.check_positions, args, space, [(1, 10)])
                else:
                    state.check_positions(args, space, [(1, 10)])

    def test_look_alikes(self):
        """-mf and -o never cut or replace what only looks like theirs."""
        record = struct.pack('=BQi', cscan.METRICS_SENT, 5, 3)
        head, console = struct.pack('=i', 800), StubConsole()
        rows = [(head, True), (head + record, True), (head + record + b'\xe0', True),
                (b'abcd', False), (b'abc', False), (b'abcd' + record, False), (b'text\n' * 9, False),
                (head + b'\xe0', False), (head + record + b'x', False), (b'\0' * 4, False),
                ('Das \u201ewar es\u201c'.encode(), False), (head + record[:-1], False)]
        for octets, ours in rows:
            path = self.path('file', octets)
            with self.subTest(octets=octets):
                if ours:
                    os.close(cscan.Metrics(path, 800, console).fd)
                else:
                    self.assert_refused(['not replaced'], cscan.Metrics, path, 800, console)
                self.assertEqual(self.read('file'), octets)
        for octets in (b'L\n', b'B!', b'L \n', b'L\0\1', b'L\t\1\0\5abc', b'B\r'):
            with self.subTest(octets=octets):
                path = self.path('file', octets)
                self.assert_refused(['not a CBA file'], cscan.CbaSink, path, None, console)
                self.assertEqual(self.read('file'), octets)


class Source(unittest.TestCase):
    """The one address that all targets are reached from, by routes as the kernel tells them."""
    PLAIN = [(255, 32, '10.0.0.5'), (255, 8, '127.0.0.0'), (254, 24, '10.0.0.0'), (254, 0, '0.0.0.0')]

    @staticmethod
    def message(fields, *attributes):
        """rtmsg fields, (type, octets) of attributes -> the body of RTM_NEWROUTE."""
        return cscan.ROUTE.pack(*fields) + b''.join(
            cscan.ATTRIBUTE.pack(4 + len(octets), kind) + octets + bytes(-len(octets) % 4)
            for kind, octets in attributes)

    def test_messages(self):
        to, word = (cscan.RTA_DST, bytes([10, 1, 2, 0])), struct.Struct('=I').pack
        plain = (2, 23, 0, 0, 254, 2, 253, 1, 0)
        route = cscan.Route(254, 23, 0x0a010200, 0x0a0103ff, b'')
        for name, body, expected in (
                ('plain', self.message(plain, to), [route]),
                ('behind others', self.message(plain, (4, b'x'), to, (15, word(254))), [route]),
                ('default', self.message((2, 0, 0, 0, 255, 2, 0, 1, 0)), [
                    cscan.Route(255, 0, 0, ALL - 1, b'')]),
                ('metric', self.message(plain, to, (6, word(7))), [route._replace(metric=word(7))]),
                ('cache', self.message((2, 23, 0, 0, 254, 2, 253, 1, 0x200), to), []),
                ('table', self.message((2, 23, 0, 0, 77, 2, 253, 1, 0), to), None),
                ('long table', self.message((2, 23, 0, 0, 252, 2, 253, 1, 0), (15, word(77))), None),
                ('from', self.message((2, 23, 8, 0, 254, 2, 253, 1, 0), to), None),
                ('TOS', self.message((2, 23, 0, 16, 254, 2, 253, 1, 0), to), None),
                ('throw', self.message((2, 23, 0, 0, 254, 2, 253, 9, 0), to), None),
                ('multipath', self.message(plain, to, (9, bytes(16))), None),
                ('nexthop', self.message(plain, to, (30, word(1))), None),
                ('attribute cut', self.message(plain, to)[:-1], None),
                ('attribute of 0', self.message(plain) + bytes(4), None)):
            with self.subTest(name):
                if expected is None:
                    self.assertRaises(ValueError, cscan.parse_route, body)
                else:
                    self.assertEqual(cscan.parse_route(body), expected)

    def find(self, ranges, routes, sources):
        """SourceAddress.find() with (table, bits, first) of routes and {first target: source}."""
        def read():
            return sorted((cscan.Route(table, bits, cscan.ip_number(first), cscan.ip_number(first)
                                       | (1 << 32 - bits) - 1, b'') for table, bits, first in routes),
                          reverse=True)
        asked = []

        def ask(target):
            asked.append(cscan.ip_text(target))
            return sources.get(asked[-1], '10.0.0.5')
        with patched(cscan, read_routes=read, ask_source=ask):
            return cscan.SourceAddress(pairs(ranges)).find(), asked

    def test_one_or_several(self):
        """A target of each route that has some is asked for, and of no other."""
        tunnel = self.PLAIN + [(254, 16, '20.0.0.0')]
        for name, ranges, routes, sources, expected in (
                ('one', '20.0.0.0-20.9.0.0', self.PLAIN, {}, ('10.0.0.5', ['20.0.0.0'])),
                ('two routes', '10.0.0.0-20.9.0.0', self.PLAIN, {}, (
                    '10.0.0.5', ['10.0.0.5', '10.0.0.0', '10.0.1.0'])),
                ('two sources', '19.0.0.0-20.9.0.0', tunnel, {'20.0.0.0': '10.9.0.1'}, (
                    '', ['20.0.0.0', '19.0.0.0'])),
                ('beside it', '19.0.0.0-19.9.0.0 20.1.0.0', tunnel, {'20.0.0.0': '10.9.0.1'}, (
                    '10.0.0.5', ['19.0.0.0'])),
                ('all in it', '20.0.0.0-20.0.255.255', tunnel, {'20.0.0.0': '10.9.0.1'}, (
                    '10.9.0.1', ['20.0.0.0'])),
                ('behind it', '20.0.255.0-20.1.0.0', tunnel, {'20.0.255.0': '10.9.0.1'}, (
                    '', ['20.0.255.0', '20.1.0.0'])),
                ('no way', '20.0.0.0', self.PLAIN, {'20.0.0.0': ''}, ('', ['20.0.0.0'])),
                ('own', '10.0.0.5 20.0.0.0', self.PLAIN, {'10.0.0.5': '10.0.0.9'}, (
                    '10.0.0.5', ['10.0.0.5', '20.0.0.0'])),
                ('loopback', '20.0.0.0 127.0.0.0', self.PLAIN, {'127.0.0.0': '127.0.0.1'}, (
                    '', ['127.0.0.0', '20.0.0.0'])),
                ('local first', '127.0.0.7', self.PLAIN + [(254, 24, '127.0.0.0')], {}, (
                    '10.0.0.5', ['127.0.0.7'])),
                ('the last', '255.255.255.255', self.PLAIN, {}, ('10.0.0.5', ['255.255.255.255'])),
                ('0.0.0.0', '0.0.0.0 20.0.0.0', self.PLAIN, {}, ('', [])),
                ('none', '20.0.0.0', [], {}, ('', []))):
            with self.subTest(name):
                self.assertEqual(self.find(ranges, routes, sources), expected)

    def test_unknown(self):
        """What does not tell its routes, or watches nothing, is not bound."""
        for error in (OSError(errno.EPERM, 'x'), ValueError('x'), struct.error('x')):
            with self.subTest(error=error), patched(
                    cscan, read_routes=unittest.mock.Mock(side_effect=error)):
                self.assertEqual(cscan.SourceAddress(pairs('20.0.0.0')).find(), '')
        source = cscan.SourceAddress(pairs('127.0.0.1'))
        with patched(cscan, NETLINK_FAMILY=-1):
            self.assertEqual((source.open(), source.changed()), ('', False))

    def test_equal_defaults(self):
        """Of default routes that only their gateways tell apart the kernel takes what answers."""
        default = cscan.Route(254, 0, 0, ALL - 1, b'')
        net = cscan.Route(254, 8, 0x0a000000, 0x0affffff, b'')
        for routes, fits in (([default, net, net], True), ([default, default], False),
                             ([default, default._replace(metric=b'\7')], True)):
            with self.subTest(routes=routes):
                if fits:
                    self.assertEqual(cscan.check_defaults(routes), routes)
                else:
                    self.assertRaises(ValueError, cscan.check_defaults, routes)

    def test_no_descriptor_left(self):
        """To ask the kernel is not possible then, and no reason to end."""
        full = unittest.mock.Mock(side_effect=OSError(errno.EMFILE, 'x'))
        with patched(socket, socket=full):
            self.assertEqual(cscan.SourceAddress(pairs('127.0.0.1')).open(), '')
            self.assertEqual(cscan.ask_source(0x7f000001), '')
            self.assertTrue(cscan.has_address('127.0.0.1'))

    def test_first_sockets(self):
        """Bound if changes can be watched; to a port that is free with any address."""
        hosts, net = Hosts(self), pairs('127.0.0.1')
        space = cscan.Space(net, [(9, 1)])
        taken = hosts.listener('127.0.0.9').getsockname()[1]
        real = cscan.SourceAddress.open
        for port, opened, address in ((next(FREE_PORT), real, '127.0.0.1'),
                                      (next(FREE_PORT), lambda home: '', '0.0.0.0'),
                                      (taken, real, '127.0.0.1')):
            args = cscan.make_parser().parse_args([
                '--once', '-m', '3', '-bt', '50', '-b', str(port)])
            args.seed, args.shard = 1, (0, 1)
            with self.subTest(port=port), patched(cscan.SourceAddress, open=opened):
                engine, = cscan.make_engines(args, space, net, [None], 1, StubConsole())
                self.addCleanup(engine.close)
                engine.bind_home()
                self.assertEqual([sock.getsockname() for sock in engine.free],
                                 [(address, engine.port)])
                self.assertNotEqual(engine.port, taken)
                engine.close()
                self.assertIsNone(engine.home.watch)


class AdaptiveEngine(EngineCase):
    """-r auto: what an engine makes of a judge, and keeps for --resume."""

    def silent(self, count=3, **options):
        """An engine whose targets came to their deadline."""
        engine = self.engine([self.hosts.silent() for _ in range(count)], once=True, **options)
        engine.keeper = True
        engine.adapt(1000, 1)
        engine.now += 0.01
        engine.launch(count)
        self.pass_deadline(engine)
        engine.turn_over(0)
        return engine

    def test_held(self):
        """Silent targets are kept until they are judged; a resumed scan sends them again."""
        engine = self.silent()
        self.assertEqual((engine.timeouts, list(engine.again.values())), (3, [False] * 3))
        self.assertEqual((engine.judge.levels[0].ended, engine.judge.levels[0].missed), (3, 3))
        snapshot = json.loads(json.dumps(engine.snapshot()))
        self.assertEqual((snapshot['timeouts'], snapshot['lost'], len(snapshot['waiting'])),
                         (0, 3, 3))
        other = self.engine([], once=True)
        other.resume(snapshot)
        self.assertEqual(sorted(zip(*other.draw(9))), sorted(engine.again))
        engine.judge.look = lambda *args: (None, [])
        self.assertFalse(engine.finished())
        engine.exhausted = True
        self.assertTrue(engine.finished())
        self.assertEqual((engine.again, engine.snapshot()['waiting']), ({}, []))

    def test_not_held(self):
        """With --retries, or sent again once already, it has ended, also for the state."""
        engine = self.silent(retries=1)
        self.assertEqual(list(engine.again.values()), [True] * 3)
        engine.now += 10
        engine.launch(3)
        self.pass_deadline(engine)
        engine.turn_over(0)
        self.assertEqual((engine.timeouts, engine.again), (3, {}))

    def test_sent_again(self):
        """The judge wants them again: at once, at the next look, or as its last word."""
        engine = self.silent()
        held = list(engine.again)
        engine.exhausted = True
        engine.judge.look = lambda *args: (None, held)
        self.assertFalse(engine.finished())
        self.assertEqual((engine.timeouts, engine.lost, list(engine.again.values())),
                         (0, 3, [True] * 3))
        engine.judge.look = lambda *args: (None, [])
        engine.now += 1
        engine.launch(3)
        self.pass_deadline(engine)
        engine.turn_over(0)
        self.assertEqual((engine.timeouts, engine.lost, engine.again), (3, 3, {}))
        engine = self.engine([self.hosts.silent()], once=True)
        engine.adapt(1000, 1)
        engine.judge.levels[0].lossy = True
        engine.launch(1)
        self.pass_deadline(engine)
        engine.turn_over(0)
        self.assertEqual((engine.timeouts, engine.lost, len(engine.waiting)), (0, 1, 1))

    def test_what_the_judge_sees(self):
        """SYNs, not connects; local errors but those of single targets; no suspect probes."""
        engine, seen = self.engine([self.hosts.silent()], once=True, syns=5), []
        engine.adapt(1000, 1)
        engine.judge.look = lambda *args: seen.append(args) or (None, [])
        engine.sent = 7
        engine.locals.update({errno.EPERM: 3, errno.ENOBUFS: 2})
        engine.heed_judge()
        self.assertEqual(seen[0][2:], (35, (2, 0, 0)))
        engine.launch(1)
        engine.suspects.append((0, math.inf))
        self.pass_deadline(engine)
        engine.overdue()
        self.assertEqual((engine.judge.levels[0].ended, engine.lost), (0, 1))

    def test_room_with_a_state(self):
        """It keeps as many as the slots of the state file have room for."""
        engine = self.engine([], once=True)
        engine.adapt(1000, 1)
        self.assertEqual(engine.judge.kept, cscan.AUTO_KEPT)
        engine.keep(types.SimpleNamespace(start=bool))
        self.assertEqual(engine.judge.kept, cscan.AUTO_KEPT_STATE)
        entry = json.dumps([['255.255.255.255', 65535, 0]], separators=(',', ':'))
        self.assertLess(3 * engine.judge.kept * len(entry), cscan.SNAPSHOT_SLOT)


class Excluding(EngineCase):
    """SIGHUP: the exclude list while a scan runs."""

    def setUp(self):
        super().setUp()
        self.list = self.path('never', b'192.0.2.0/24\n')
        self.exclusions = cscan.Exclusions(
            [self.list], cscan.Names({}, False, self.console))

    def test_reread(self):
        """New ranges are barred, and stay so, whatever happens to the file."""
        rows = [
            # file                              new ones, barred now
            (b'192.0.2.0/24\n127.0.0.0/8\n', 1 << 24, 1 << 24),
            (b'192.0.2.0/24\n127.0.0.0/8\n', 0, 1 << 24),
            (b'2001:db8::/32\n', 0, 1 << 24),
            (b'127.0.0.0/7\n', 1 << 24, 1 << 25),
        ]
        for octets, new, barred in rows:
            self.path('never', octets)
            self.assertEqual(cscan.count_addresses(self.exclusions.reread()), new, octets)
            self.assertEqual(cscan.count_addresses(self.exclusions.barred), barred, octets)
        self.path('never', b'127.0.0.300\n')
        self.assert_refused(['never:1', "'127.0.0.300'"], self.exclusions.reread)
        self.path('never', b'# cut short')
        self.assert_refused(['-xf', 'never', 'no ranges in there'], self.exclusions.reread)
        os.unlink(self.list)
        self.assert_refused(['never'], self.exclusions.reread)
        for host, barred in (('126.0.0.0', True), ('127.255.255.255', True), ('128.0.0.0', False),
                             ('192.0.2.1', False)):     # in the first list: no target at all
            self.assertEqual(self.exclusions.bars(host), barred, host)
        self.exclusions.scanned = [(126 << 24, (128 << 24) - 1)]
        self.assertEqual(self.exclusions.left(), [])
        self.exclusions.scanned = [(126 << 24, 128 << 24)]
        self.assertEqual(self.exclusions.left(), [(128 << 24, 128 << 24)])

    def scan(self, targets, excluded=b'127.0.0.0/8\n'):
        """An engine at whose first targets the list grows."""
        engine = self.engine(targets, once=True)
        engine.exclusions = self.exclusions
        engine.adapt(1000, 1)
        engine.launch(len(targets))
        self.path('never', excluded)
        return engine

    def test_answered_meanwhile(self):
        """What was refused just before is told as that, and its socket not met again."""
        engine = self.scan([self.hosts.closed(), self.hosts.silent()])
        engine.reread()
        self.assertEqual((engine.attempts, engine.barred, dict(engine.answers)),
                         ({}, 1, {errno.ECONNREFUSED: 1}))
        self.pass_deadline(engine)
        self.assertEqual(engine.turn_over(1), 0)
        engine = self.scan([self.hosts.closed()], b'127.0.0.0/9\n127.128.0.0/9\n128.0.0.0/8')
        engine.reread()
        self.pass_deadline(engine)
        self.assertEqual((engine.turn_over(1), engine.attempts), (0, {}))

    def test_metrics(self):
        """-mf: what was taken back comes again, together or not."""
        targets = [self.hosts.silent() for _ in range(3)]
        for again in targets, targets[1:], targets[:1]:
            with self.subTest(again=len(again)):
                self.kind = lambda *args, **options: MeteredEngine.kind(self, *args, **options)
                engine = self.scan(targets)
                self.addCleanup(os.close, engine.metrics.fd)
                engine.reread()
                self.assertEqual((engine.attempts, engine.since, engine.volleys), ({}, {}, {}))
                engine.exclusions, engine.exhausted = None, False
                engine.source = columns(again)
                engine.launch(len(again))
                self.assertEqual(len(engine.attempts), len(again))
                self.path('never', b'192.0.2.0/24\n')
                self.exclusions.barred = []

    def test_judge(self):
        """What was taken back counts for no level."""
        engine = self.scan([self.hosts.silent()])
        engine.reread()
        self.assertEqual([each.reason for each in engine.judge.decisions],
                         ['start', 'exclude list read again'])
        self.pass_deadline(engine)
        engine.turn_over(0)
        self.assertEqual(engine.judge.levels[-1].ended, 0)

    def test_unreadable(self):
        """The list before stays, and the scan goes on."""
        engine = self.scan([self.hosts.silent()], b'127.0.0\n')
        engine.hup = True
        engine.reread()
        self.assertEqual((len(engine.attempts), engine.hup, engine.stopping), (1, False, ''))
        self.assert_line(self.console.notes[-1], 'SIGHUP: ', "never:1: '127.0.0'",
                         '; the exclude list before stays')

    def test_nothing_left(self):
        self.exclusions.scanned = [(127 << 24, 128 << 24)]
        engine = self.scan([self.hosts.silent()], b'127.0.0.0/8\n')
        engine.reread()
        self.assertEqual(engine.stopping, '')
        self.path('never', b'128.0.0.0/8\n')
        engine.reread()
        self.assertEqual(engine.stopping, 'everything is excluded now')

    def test_terminal_closed(self):
        """A terminal that closed is known, also when the size of it was asked for meanwhile."""
        for fd, log in ((2, None), (1, None), (2, 'the log takes the messages')):
            master, slave = os.openpty()
            before = os.dup(fd)
            try:
                os.dup2(slave, fd)
                console = cscan.Console()
                self.assertEqual(console.hung_up(), False)
                if log:
                    console.follow(log)
                os.close(master)
                console.status('nobody sees it')
                self.assertEqual(console.hung_up(), not log)
            finally:
                os.dup2(before, fd)
                os.close(before)
                os.close(slave)

    def test_results(self):
        """Results that wait for modules are dropped and counted; modules connect no more."""
        self.path('never', b'127.0.0.0/8\n')
        self.exclusions.reread()
        crew = cscan.Crew([], {}, StubSink(), self.console, 0, 50)
        crew.exclusions = self.exclusions
        for host, dropped in (('127.0.0.1', 1), ('128.0.0.1', 1), ('127.0.0.2', 2)):
            crew.examine(cscan.Target(host, 80, ''), None)
            self.assertEqual(crew.drops['-xf'], dropped)
        with self.assertRaisesRegex(OSError, 'excluded meanwhile'):
            cscan.Target('127.0.0.1', 1, '', self.exclusions).connect(100)
        cscan.tell_end(self.console, crew, '')
        self.assertEqual(self.console.notes, ['excluded meanwhile (-xf): dropped 2 results'])

    def test_state_without_room(self):
        """That --resume will not know of it is told."""
        progress = cscan.Progress(self.console, 1, None, None)
        progress.keep_config = lambda: 'too big'
        progress.reread(self.exclusions, [(1, 2)])
        self.assertEqual(self.console.notes, [
            'warning: --state: too big: --resume will not know the exclude list',
            'SIGHUP: exclude list read again: 2 addresses more excluded from now on'])


class Hangup(Case):
    """SIGHUP: one rule, with each of the options that it matters to."""

    def signals(self, args, hung_up=False, before=signal.SIG_DFL):
        """Signals as a scan has them, and the handler of SIGHUP; None: as it was."""
        console = StubConsole()
        console.hung_up = lambda: hung_up
        handler = signal.signal(signal.SIGHUP, before)
        self.addCleanup(signal.signal, signal.SIGHUP, handler)
        signals = cscan.Signals()
        self.addCleanup(signals.restore)
        signals.take_hangup(cscan.make_parser().parse_args(args), console)
        return signals, signal.getsignal(signal.SIGHUP) != before

    def test_nohup(self):
        """SIGHUP that is ignored stays so, unless it has something to do."""
        rows = [([], False), (['-o', 'x'], False), (['-xf', 'x'], True), (['--log', 'x'], True),
                (['--status', 'x'], True), (['-x', '-xf', 'x'], False), (['-l', '-xf', 'x'], False)]
        for args, heeded in rows:
            with self.subTest(args=args):
                self.assertEqual(self.signals(args, before=signal.SIG_IGN)[1], heeded)
                self.assertEqual(self.signals(args)[1], True)

    def test_ends(self):
        """A closed terminal ends the scan, as do -l and -x; a second one changes nothing."""
        rows = [([], True, 1), ([], False, 0), (['-xf', 'x'], True, 1), (['-xf', 'x'], False, 0),
                (['-l'], False, 1), (['-x'], False, 1)]
        for args, hung_up, came in rows:
            with self.subTest(args=args, hung_up=hung_up):
                signals = self.signals(args, hung_up)[0]
                reasons = []
                engine = types.SimpleNamespace(stop=reasons.append)
                signals.give(engine)
                for _ in range(2):
                    os.kill(os.getpid(), signal.SIGHUP)
                self.assertEqual((signals.came, engine.hup), (came, not came))
                self.assertEqual(reasons, ['the terminal was closed'] * came)
                signals.restore()

    def test_before_the_scan(self):
        """One that came early: the scan does not begin, or begins by reading again."""
        with self.assertRaises(cscan.Interrupted):
            self.signals([], True)
            os.kill(os.getpid(), signal.SIGHUP)
        signals = self.signals(['-xf', 'x'])[0]
        os.kill(os.getpid(), signal.SIGHUP)
        engine = types.SimpleNamespace(stop=None)
        signals.give(engine)
        self.assertTrue(engine.hup)

    def test_reopen(self):
        """What the names of --log and --status mean now, wherever the process stands."""
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.folder)
        console = StubConsole()
        status, log = cscan.StatusFile('status', console), cscan.Log('log')
        status.open()
        saved = os.dup(2)
        try:
            log.take(2)
            os.chdir('/')
            for name in 'status', 'log':
                os.rename(self.path(name), self.path(name + '.1'))
            console.log = log
            progress = cscan.Progress(console, 1, None, None)
            progress.status_file = status
            progress.reopen()
            os.write(2, b'message')
            status.write({'x': 1})
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        self.assertEqual(self.look(), {'status': b'{"x":1}\n', 'log': b'message', 'log.1': b'',
                                       'status.1': b''})
        self.assertEqual(console.notes, ['SIGHUP: the scan goes on; opened again: --log %r, '
                                         '--status %r' % (self.path('log'), self.path('status'))])
        os.rename(self.folder, self.folder + '.away')
        progress.reopen()
        os.rename(self.folder + '.away', self.folder)
        self.assert_line(console.notes[1], 'warning: SIGHUP: argument --log: ', 'before stays')
        self.assert_line(console.notes[2], 'warning: SIGHUP: argument --status: ', 'before stays')
        self.assertEqual(console.notes[3], 'SIGHUP: the scan goes on')
        self.assertTrue(status.write({'y': 1}))
        os.close(status.fd)

    def test_descriptor_is_not_reopened(self):
        reader, writer = os.pipe()
        status = cscan.StatusFile(str(writer), StubConsole())
        self.assertEqual((status.reopen(), status.path), (False, ''))
        for fd in reader, writer, status.fd:
            os.close(fd)

    def test_messenger(self):
        """A worker hears each order once, by a word of its own."""
        heard = []
        log = types.SimpleNamespace(reopen=lambda: heard.append('log'))
        worker = types.SimpleNamespace(orders=[0] * cscan.ORDERS)
        messenger = cscan.Messenger(worker, 0, types.SimpleNamespace(sync=None), log)
        engine = types.SimpleNamespace(hup=False)
        for word, log_opened, hup in ((None, 0, False), (cscan.REOPEN, 1, False),
                                      (cscan.REREAD, 1, True), (None, 1, False)):
            if word is not None:
                worker.orders[word] += 1
            messenger.hear_hangup(engine)
            self.assertEqual((len(heard), engine.hup), (log_opened, hup))
            engine.hup = False


class Status(Case):
    """--status: JSON lines for machines."""

    def setUp(self):
        super().setUp()
        self.console = StubConsole()

    def status(self, spec):
        status = cscan.StatusFile(str(spec), self.console)
        status.open()
        self.addCleanup(os.close, status.fd)
        return status

    def pipe(self):
        """-> (a file object to read from, a StatusFile)"""
        path = self.path('pipe')
        os.mkfifo(path)
        reader = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 'rb')
        self.addCleanup(reader.close)
        return reader, self.status(path)

    def progress(self, status_file, decisions=0, **values):
        """A Progress that has something to tell -> (it, an engine)."""
        progress = cscan.Progress(self.console, 1 << 40, None, 100)
        progress.status_file = status_file
        for number in range(decisions):
            progress.decide(cscan.Decision(1e9 + 0.1, 99999.9, 'answers hold %d' % number), 64)
        codes = list(cscan.NAMES) + list(cscan.LOCAL)
        totals = cscan.Totals(*[1 << 40] * len(cscan.KEPT_COUNTERS), 9, 9, 9, ['modules', 'rate'],
                              'canary', *[collections.Counter(dict.fromkeys(codes, 1 << 40))] * 2)
        engine = types.SimpleNamespace(
            totals=lambda: totals, started=time.monotonic() - 5, real=time.monotonic(),
            crew=StubCrew(), stopping='', error='')
        engine.crew.passed, engine.crew.sink = 3, StubSink()
        vars(engine).update(values)
        return progress, engine

    def test_columns(self):
        """At 40 columns the number of open ports is still there."""
        progress = cscan.Progress(self.console, 1, None, 1 << 32)
        totals = cscan.Totals(**dict(dict.fromkeys(cscan.Totals._fields, 0), sent=1234567890,
                                     opened=98765, limits=[], canary='', answers={}, locals={}))
        engine = types.SimpleNamespace(stopping='', crew=types.SimpleNamespace(
            full=lambda: False, closed=False))
        self.assertIn('98765 open', progress.status(engine, totals)[:39])

    def test_seldom(self):
        """Off a terminal a line at most in so many seconds; the CBA has them all."""
        self.console.tty = False
        out = types.SimpleNamespace(begin=lambda name: None, numbers=[])
        out.int32 = out.int64 = lambda number, code=0: out.numbers.append(number)
        totals = cscan.Totals(**dict(dict.fromkeys(cscan.Totals._fields, 0), limits=[], canary='',
                                     answers={}, locals={}))
        engine = types.SimpleNamespace(totals=lambda: totals)
        for least, lines in ((5, 1), (0, 3)):
            progress = cscan.Progress(self.console, 10, out, None, least)
            self.console.notes.clear()
            out.numbers.clear()
            for _ in range(3):
                progress.statistics(engine)
            self.assertEqual((len(self.console.notes), len(out.numbers)), (lines, 9))
            progress.spoken -= 6
            progress.statistics(engine)
            self.assertEqual(len(self.console.notes), lines + 1)

    def test_refused(self):
        """What cannot be written is an error at once, not the end of a long scan."""
        os.mkfifo(self.path('pipe'))
        reader, writer = os.pipe()
        self.addCleanup(os.close, writer)
        for spec, parts in (
                (self.path('pipe'), ['nobody reads this pipe']), (self.folder, ['directory']),
                (self.path('no/file'), ['No such file']), (reader, ['%d: no desc' % reader]),
                ('9' * 30, ['no descriptor that can be written', '3>FILE'])):
            self.assert_refused(['argument --status: '] + parts, self.status, spec)
        os.close(reader)
        self.assert_refused(['no descriptor'], self.status, reader)     # not open any more

    def test_descriptor(self):
        """A copy is written; a number that is none of ASCII is a file."""
        reader, writer = os.pipe()
        status = self.status(writer)
        os.close(writer)
        self.assertTrue(status.write({'a': 1}))
        self.assertEqual(os.read(reader, 99), b'{"a":1}\n')
        os.close(reader)
        self.assertFalse(status.write({'a': 2}) or status.write({'a': 3}))
        self.assertEqual(len(self.console.notes), 1)
        self.assert_line(self.console.notes[0], 'Broken pipe: nothing more is written there')
        self.assertTrue(self.status(self.path('\u00b2')).write({}))

    def test_slow_reader(self):
        """It loses lines, learns how many, gets whole ones, and the last one if it reads then."""
        reader, status = self.pipe()
        wrote = 0
        while status.write({'number': wrote}):
            wrote += 1
        self.assertFalse(status.write({}))
        lines = reader.read().splitlines()
        self.assertEqual([json.loads(line.decode())['number'] for line in lines],
                         list(range(wrote)))
        self.assertTrue(status.write({'number': 'new'}))
        self.assertEqual(json.loads(reader.read().decode()), {'number': 'new', 'lost_lines': 2})
        while status.write({}):
            pass
        status.patience_ms = 5000
        threading.Timer(0.05, reader.read).start()
        self.assertTrue(status.write({'state': 'done'}))

    def test_half_a_line(self):
        """Its rest comes before the next line; on a full disk that ends it."""
        status = self.status(self.path('file'))
        with self.file_limit(20):
            self.assertTrue(status.write({'x': 'y' * 30}))
        self.assertTrue(status.write({'z': 1}))
        self.assertEqual(self.read('file').splitlines(),
                         [json.dumps({'x': 'y' * 30}, separators=(',', ':')).encode(),
                          b'{"z":1}'])
        with self.file_limit(10):
            self.assertFalse(status.write({}))
        self.assert_line(self.console.notes[0], 'File too large')

    def test_decisions(self):
        """Each comes once, at the latest before the last line; lines fit into a pipe at once."""
        reader, status = self.pipe()
        progress, engine = self.progress(status, decisions=40)
        fill = 0
        while status.write({'x': 'y' * 1000}):
            fill += 1
        progress.tell_file(engine, engine.totals(), 'running')
        self.assertEqual(len(reader.read().splitlines()), fill)
        progress.final(engine)
        lines = reader.read().splitlines()
        self.assertLess(max(map(len, lines)), 4096)
        records = [json.loads(line.decode()) for line in lines]
        self.assertEqual([each['state'] for each in records], ['stopping'] * 2 + ['done'])
        self.assertEqual([each['reason'] for record in records for each in record['decisions']],
                         ['answers hold %d' % number for number in range(40)])
        self.assertEqual(records[0]['decisions'][0]['worker'], 64)

    def test_decisions_nobody_reads(self):
        """The end comes all the same."""
        reader, status = self.pipe()
        progress, engine = self.progress(status, decisions=40)
        while status.write({}):
            pass
        with patched(cscan, STATUS_LAST_MS=1):
            progress.final(engine)
        self.assertEqual((len(progress.decisions), status.patience_ms), (40, 1))

    def test_states(self):
        """What is said of it while it runs and at its end; numbers are numbers."""
        def constant(text):
            raise ValueError(text)
        for values, state, expected in (
                ({}, 'running', {'reason': '', 'open': 1 << 40, 'results': 3, 'percent': 0}),
                ({'stopping': 'interrupted'}, 'stopping', {'reason': 'interrupted',
                                                           'eta_s': None}),
                ({'error': 'why'}, 'done', {'error': 'why'}), ({}, 'done', {'error': None})):
            path = self.path('file %s %s' % (state, len(values)))
            progress, engine = self.progress(self.status(path), **values)
            progress.drawn -= 2
            (progress.final if state == 'done' else progress.show)(engine)
            record = json.loads(self.read(path).decode(), parse_constant=constant)
            self.assertEqual({name: record[name] for name in expected}, expected)
            self.assertEqual((record['state'], 'error' in record), (state, state == 'done'))

    def test_modules_at_work(self):
        """All is sent, and lines come on."""
        path = self.path('file')
        progress, engine = self.progress(self.status(path), hup=False)
        progress.drawn -= 2
        engine.crew.closed = True
        engine.progress = progress
        cscan.linger(engine)
        self.assertEqual(json.loads(self.read(path).decode())['state'], 'waiting for modules')

    def test_resumed(self):
        """A file is gone on with, a descriptor is not: it may be another now; a new one counts."""
        parser = cscan.make_parser()
        for spec, kept in (('3', None), (self.path('file'), self.path('file')), (None, None)):
            args = parser.parse_args(['--once'] + (['--status', spec] if spec else []))
            args.lists = args.told = None
            self.assertEqual(cscan.lasting_args(args)['status'], kept)
        cscan.check_resumed(parser, parser.parse_args(['--resume', 'x', '--status', '3']))

    def test_scan(self):
        """A whole scan: one line at least, the last one says done."""
        hosts = Hosts(self)
        port = hosts.closed()[1]
        done = run('cscan.py', '-q', '-f', '127.77.0.0/30', '-p', port, '--once', '-b',
                   next(FREE_PORT), '-bt', 50, '--status', self.path('file'))
        self.assertEqual(done, (0, '', ''))
        last = json.loads(self.read('file').splitlines()[-1].decode())
        self.assertEqual([last[name] for name in ('state', 'sent', 'answers', 'percent', 'total')],
                         ['done', 4, {'refused': 4}, 100, 4])


SLOW_MODULE = b"""
import time, cscan
@cscan.module('slow')
def check_slow(target, out, options):
    "Takes its time."
    time.sleep(%f)
    out.str('%%s' %% target)
"""


def end_process(process):
    """Whatever has become of it, it leaves nothing."""
    process.kill()
    process.wait()
    for stream in filter(None, (process.stdout, process.stderr)):
        stream.close()


class Long(Case):
    """Scans of -w, --state and --resume as processes: what a kill, a signal or an error leaves."""
    network = itertools.count(os.getpid() % 40 * 5 + 20)    # 127.N.0.0/16 for each test

    def setUp(self):
        super().setUp()
        self.net = '127.%d' % (next(self.network) % 240 + 5)
        self.hosts = Hosts(self)
        self.port = self.hosts.serving('0.0.0.0', backlog=4096)[1]
        self.base = ['-q', '-b', next(FREE_PORT), '-bt', 50, '-p', self.port, '--once',
                     '-f', self.net + '.0.0/23']
        self.state = ['--state', self.path('state')]
        self.resumed = ['-q', '--resume', self.path('state')]

    def targets(self, count=512):
        return ['%s.%d.%d:%d' % ((self.net,) + divmod(number, 256) + (self.port,))
                for number in range(count)]

    def scan(self, *args, **keywords):
        return run('cscan.py', *self.base, *args, **keywords)

    def start(self, *args, **keywords):
        process = start('cscan.py', *args, **keywords)
        self.addCleanup(end_process, process)
        return process

    def results(self, name='scan.cba'):
        """Targets in a CBA file, as often as they are there."""
        path = self.path(name)
        if not os.path.exists(path):
            return []
        return [entry.events[0][2] for entry in cba_entries(path)]

    def assert_all(self, found, repeats=0):
        """All targets, and of them so many more than once."""
        self.assertEqual(sorted(set(found)), sorted(self.targets()))
        self.assertLessEqual(len(found) - len(self.targets()), repeats)

    def workers_of(self, process, count):
        return wait_until(lambda: len(child_pids(process.pid)) == count
                          and child_pids(process.pid))

    def assert_gone(self, pids):
        """None of them lives; who ended as an orphan may wait for init as a zombie."""
        def is_gone(pid):
            try:
                return read_text('/proc/%d/stat' % pid).rpartition(')')[2].split()[0] == 'Z'
            except (FileNotFoundError, ProcessLookupError):
                return True
        wait_until(lambda: all(map(is_gone, pids)))


class Team(Long):
    """-w: several processes are one scan."""

    def test_same_results(self):
        """Every target once, whatever the number of workers, one output, one end."""
        for workers in (3, 40) if TEST_ALL else (3,):
            status, out, err = run('cscan.py', *self.base[1:], '-r', 2000, '-w', workers)
            self.assertEqual((status, sorted(out.split())), (0, sorted(self.targets())))
            self.assertIn('cscan: %d workers, ' % workers, err)
            self.assertRegex(err, r'\ncscan: 512 packets in [^\n]*: 512 open, 0 without answer\n$')

    def test_confirm(self):
        """A worker hears of results once they are written, and never of others."""
        def team(state=True, **console):
            team = cscan.Team.__new__(cscan.Team)
            team.crew, team.sink, team.state, team.console = (
                KeepingCrew(), StateSink(), state, StubConsole())
            team.crew.done, team.crew.passed = 3, 2
            vars(team.console).update(console)
            team.workers = [types.SimpleNamespace(orders=[0] * cscan.ORDERS,
                                                  results=collections.deque(numbers))
                            for numbers in ((0, 2, 3), (1, 4), (5,), ())]
            return team
        for state in (True, None):
            one = team(state)
            one.confirm()
            one.confirm()
            self.assertEqual([each.orders[cscan.WRITTEN] for each in one.workers], [2, 1, 0, 0])
            self.assertEqual([each.orders[cscan.PASSED] for each in one.workers], [2, 2, 0, 0])
            self.assertEqual([len(each.results) for each in one.workers], [1, 1, 1, 0])
            self.assertEqual(one.sink.flushed, 1 if state else 0)
        lost, late = team(), team()
        lost.sink.failed = 'full'
        late.sink.flush = lambda: setattr(late.sink, 'failed', 'full')
        for one in (team(gone=True), team(failed='closed'), lost, late):
            one.confirm()
            self.assertEqual([each.orders[cscan.WRITTEN] for each in one.workers], [0] * 4)

    def test_worker_killed(self):
        """That is told, the others wind up, status 1, nobody is left; --resume does the rest."""
        process = self.start(*self.base, '-r', 1000, '-t', 100, '-w', 3, *self.state,
                             '-o', self.path('scan.cba'))
        pids = self.workers_of(process, 3)
        wait_until(self.results)
        os.kill(pids[1], signal.SIGKILL)
        out, err = process.communicate(timeout=20)
        self.assertEqual((process.returncode, out, err),
                         (1, b'', b'cscan: worker 2 has ended before its work was done\n'))
        self.assert_gone(pids)
        self.assertLess(len(self.results()), 512)
        self.assertEqual(run('cscan.py', *self.resumed), (0, '', ''))
        self.assert_all(self.results(), 100)

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_limits(self):
        """-n and --max-results are of all workers together; of --max-runtime what is left resumes."""
        for option, count in (('-n', 100), ('-n', 1), ('-n', 511), ('--max-results', 99)):
            with self.subTest(option=option, count=count):
                status, out, err = self.scan(option, count, '-r', 2000, '-w', 3)
                self.assertEqual((status, err), (0, ''))
                self.assertEqual(len(set(out.split())), count)
                self.assertEqual(len(out.split()), count)
        status, out, err = self.scan('--max-runtime', 0.3, '-r', 500, '-w', 3, *self.state)
        self.assertEqual((status, err), (0, ''))
        self.assertLess(len(out.split()), 300)
        found = out.split()
        while len(found) < 512:
            status, out, err = run('cscan.py', *self.resumed)
            self.assertEqual((status, err), (0, ''))
            self.assertTrue(out)
            found += out.split()
        self.assert_all(found)

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_signals(self):
        """The first winds up and keeps the state, the second ends at once; nobody is left."""
        for workers in (1, 3):
            self.state = ['--state', self.path('state%d' % workers)]
            name = self.path('out%d' % workers)
            with open(name, 'w') as file:
                process = self.start(*self.base, '-r', 300, '-w', workers, *self.state,
                                     stdout=file)
            wait_until(lambda: read_text(name))
            pids = child_pids(process.pid)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=20)
            self.assertEqual((process.returncode, err), (143, b''))
            self.assert_gone(pids)
            found = read_text(name).split()
            status, out, err = run('cscan.py', '-q', '--resume', self.state[1])
            self.assertEqual((status, err), (0, ''))
            self.assert_all(found + out.split())

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_second_signal(self):
        """While modules keep the scan from its end, the second signal ends all at once."""
        module = self.path('slow.py', SLOW_MODULE % 60)
        process = self.start(*self.base, '-r', 5000, '-w', 3, *self.state, '-mod', module,
                             '-o', self.path('scan.cba'))
        pids = self.workers_of(process, 3)
        for _ in range(2):
            time.sleep(0.5)
            self.assertIsNone(process.poll())
            process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(10), 130)
        self.assert_gone(pids)

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_first_killed(self):
        """The workers end by themselves, and then --resume has the files for itself."""
        process = self.start(*self.base, '-r', 300, '-w', 3, *self.state,
                             '-o', self.path('scan.cba'))
        wait_until(self.results)
        pids = self.workers_of(process, 3)
        process.kill()
        self.assertEqual(run('cscan.py', *self.resumed), (0, '', ''))
        self.assert_gone(pids)
        self.assert_all(self.results(), 100)
        process = self.start(*self.base, '-p', 9, '-r', 10, '-w', 2)
        pids = self.workers_of(process, 2)
        process.kill()
        self.assert_gone(pids)                  # though they have no results to tell

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_nobody_reads(self):
        """`| head -1`: the scan ends well and at once; what nobody read is found once more."""
        for workers in (1, 3):
            state = ['--state', self.path('state%d' % workers)]
            process = self.start(*self.base, '-r', 300, '-w', workers, *state)
            process.stdout.readline()
            process.stdout.close()
            process.stdout = None
            self.assertEqual((process.communicate(timeout=20)[1], process.returncode), (b'', 0))
            status, out, err = run('cscan.py', '-q', '--resume', state[1])
            self.assertEqual((status, err), (0, ''))
            self.assertGreater(len(out.split()), 400)
            self.assertEqual(len(set(out.split())), len(out.split()))

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_output_fails(self):
        """A disk that is full, a file that was renamed: what --resume adds makes it whole."""
        def small_files():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 26, hard))
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        for workers in (1, 3):
            with self.subTest(workers=workers):
                names = 'moved%d.cba' % workers, 'new%d.cba' % workers
                state = self.path('state%d' % workers)
                process = self.start(*self.base, '-r', 300, '-w', workers, '--state', state,
                                     '-o', self.path(names[1]))
                wait_until(lambda: len(self.results(names[1])) > 50)
                os.rename(self.path(names[1]), self.path(names[0]))
                _, err = process.communicate(timeout=20)
                self.assertEqual(process.returncode, 1)
                self.assertIn('%s: No such file or directory' % self.path(names[1]), err.decode())
                self.assertGreater(len(self.results(names[0])), 50)     # and nothing was cut off
                self.assertEqual(run('cscan.py', '-q', '--resume', state), (0, '', ''))
                self.assert_all(self.results(names[0]) + self.results(names[1]), 100)
        process = self.start(*self.base, '-r', 5000, '-w', 2, *self.state, '-o', '/dev/full')
        _, err = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 1)
        self.assertFalse(os.path.exists(self.path('state')))

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_slow_modules(self):
        """Results that modules are still at do not count: killed meanwhile, they are found again."""
        module = self.path('slow.py', SLOW_MODULE % 0.05)
        for workers in (1, 3):
            with self.subTest(workers=workers):
                state, name = self.path('state%d' % workers), 'slow%d.cba' % workers
                args = [*self.base, '-r', 5000, '-w', workers, '--state', state, '-mod', module,
                        '-o', self.path(name), '-mt', 10]
                for _ in range(3):
                    process = self.start(*args)
                    before = len(self.slow_results(name))
                    wait_until(lambda: len(self.slow_results(name)) > before + 20)
                    process.kill()
                    process.wait()
                    args = ['-q', '--resume', state]
                self.assertEqual(run('cscan.py', *args), (0, '', ''))
                self.assert_all(self.slow_results(name), 512)

    def slow_results(self, name):
        path = self.path(name)
        return [entry.events[0][2] for entry in cba_entries(path, 'slow')
                ] if os.path.exists(path) else []

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_few_descriptors(self):
        """What does not fit is told, and what fits works."""
        args = ['-r', 2000, '-t', 100]
        status, out, err = self.scan(*args, '-w', 2, preexec_fn=low_descriptors)
        self.assertEqual((status, sorted(out.split())), (0, sorted(self.targets())))
        self.assertIn('pending connects do not fit into 64 descriptors', err)
        done = self.scan(*args, '-w', 40, preexec_fn=low_descriptors)
        self.assert_stop(done, 1, '-w: 40: 64 descriptors are too few', 'ulimit -n')

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_canary(self):
        """One worker sends it, when all together have sent so many."""
        closed = self.hosts.closed()[1]
        status, out, err = self.scan('-r', 1000, '-w', 2, '-c', '127.0.0.1', '-cp', closed,
                                     '-ca', 100, '-ce', 100)
        self.assertEqual((status, len(out.split())), (0, 512))
        self.assertEqual(err, 'cscan: canary 127.0.0.1:%d: not open\n' % closed)

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_background(self):
        """-d with -w, killed, and resumed in the background."""
        log = self.path('log')
        args = ['-r', 300, '-w', 2, '-d', '--log', log, *self.state]
        self.assertEqual(self.scan(*args), (0, '', ''))
        wait_until(lambda: os.path.exists(log) and self.net in read_text(log))
        first, = [pid for pid in self.cscan_pids() if len(child_pids(pid)) == 2]
        os.kill(first, signal.SIGKILL)
        self.assertEqual(run('cscan.py', *self.resumed, '-d'), (0, '', ''))
        wait_until(lambda: not self.cscan_pids())
        self.assert_all(read_text(log).split(), 100)
        done = run('cscan.py', *self.resumed)
        self.assert_stop(done, 1, 'that scan is complete')

    def cscan_pids(self):
        """Processes that have our state file open."""
        found = []
        for name in filter(str.isdigit, os.listdir('/proc')):
            with contextlib.suppress(OSError):
                names = os.listdir('/proc/%s/fd' % name)
                links = [os.readlink('/proc/%s/fd/%s' % (name, fd)) for fd in names]
                found += [int(name)] * (self.path('state') in links)
        return found


class Resume(Long):
    """--state and --resume as users meet them."""

    def kill_and_resume(self, args, kills, draw):
        """kill -9 again and again at random moments, then let it end -> how often it ran."""
        name = self.path('state')
        for _ in range(kills):
            process = self.start(*args)
            wait_until(lambda: os.path.exists(name) or process.poll() is not None)
            time.sleep(draw.uniform(0.02, 0.1))
            process.kill()
            process.communicate()
            args = self.resumed if os.path.exists(name) else args
        return run('cscan.py', *args)

    def test_killed(self):
        """kill -9 at random moments: no result is missing, few are there twice."""
        draw = random.Random(SEED)
        workers = draw.choice((1, 3))
        args = [*self.base, '-r', 2000, '-t', 100, '-w', workers, *self.state,
                '-o', self.path('scan.cba')]
        done = self.kill_and_resume(args, 4, draw)
        self.assertEqual((done[0], done[1]), (0, ''), done[2])
        self.assert_all(self.results(), 4 * 200)
        self.assert_stop(run('cscan.py', *self.resumed), 1, '--resume', 'that scan is complete')

    def counted(self, name):
        """What the snapshots of a state file count, and what the metrics file has: [Counter] * 2."""
        state = cscan.StateFile(self.path('state' + name), '--resume')
        try:
            state.load()
            told = collections.Counter()
            for each in filter(None, state.snapshots):
                told.update(sent=each['sent'], open=each['opened'],
                            closed=sum(dict(each['answers']).values()))
        finally:
            close_state(state)
        with open(self.path('metrics' + name), 'rb') as file:
            tally = metrics.read_open(file, name)[1]
        return told, collections.Counter(sent=tally.total(metrics.SENT), open=tally.total(
            metrics.OPEN), closed=tally.total(metrics.CLOSED))

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_metrics(self):
        """-mf: all that the scan counts is in the file, after Ctrl-C nothing else; kill -9, too."""
        for workers in (1, 3):
            name = str(workers)
            path, excess = self.path('metrics' + name), collections.Counter()
            args = [*self.base, '-p', '%d,9' % self.port, '-r', 1000, '-t', 100, '-w', workers,
                    '--state', self.path('state' + name), '-mf', path]
            for signum in (signal.SIGINT, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
                with self.subTest(workers=workers, signum=signum):
                    before = os.path.getsize(path) if os.path.exists(path) else 0
                    process = self.start(*args)
                    wait_until(lambda: os.path.exists(path) and os.path.getsize(path) > before + 3000)
                    pids = child_pids(process.pid)
                    process.send_signal(signum)
                    process.communicate(timeout=20)
                    self.assert_gone(pids)
                    told, found = self.counted(name)
                    self.assertEqual((told - found) + (excess - (found - told)),
                                     collections.Counter())
                    if signum != signal.SIGKILL:
                        self.assertEqual(found - told, excess)
                    excess = found - told
                    args = ['--resume', self.path('state' + name)]
            status, _, err = run('cscan.py', *args)
            self.assertEqual(status, 0, err)
            last = re.search(r'(\d+) packets in .*: (\d+) open, (\d+) refused, 0 without', err)
            told = collections.Counter(dict(zip(('sent', 'open', 'closed'), map(int, last.groups()))))
            self.assertGreaterEqual(told['sent'], 1024)
            found = self.counted(name)[1]
            self.assertEqual((found - told, told - found), (excess, collections.Counter()))

    def test_lists_changed(self):
        """Other targets than the scan began with are named, and nothing is sent."""
        targets, never = self.path('targets', b'127.0.0.1\n'), self.path('never', b'10.0.0.0/8\n')
        ports = self.path('ports', cscan.pack_csp([(9, 1), (10, 1)], 'ports'))
        console = types.SimpleNamespace(progress=lambda text: None)
        parser = cscan.make_parser()
        args = parser.parse_args(['-f', targets, '-xf', never, '-pf', ports, '--once',
                                  '--state', 'state'])

        def lists():
            names = cscan.Names({}, False, console)
            exclusions = cscan.Exclusions(args.exclude, names, None)
            return json.loads(json.dumps(cscan.load_space(args, exclusions, names, console)[1]))
        before = lists()
        cscan.check_lists('state', before, lists())
        for name, octets, words in (
                ('targets', b'127.0.0.1-127.0.0.3\n', '-f names has changed since the scan began: '
                 '1 address then, 3 addresses now'),
                ('never', b'10.0.0.0-10.255.255.254\n', '-xf names has changed since the scan '
                 'began: 16777216 addresses then, 16777215 addresses now'),
                ('ports', cscan.pack_csp([(10, 1), (9, 1)], 'ports'), '-p names has changed')):
            with self.subTest(name=name):
                old = self.read(name)
                self.path(name, octets)
                now = lists()
                self.assert_refused(["--resume: 'state'", words],
                                    cscan.check_lists, 'state', before, now)
                self.path(name, old)

    def resume_with(self, more=(), given=(), distrust='', **changes):
        """resumed_args() of a state file whose arguments are changed."""
        parser = cscan.make_parser()
        args = parser.parse_args(['-f', '127.0.0.1', '--once', *more])
        args.shard, args.lists, args.names, args.told = (0, 1), {}, {}, []
        lasting = cscan.lasting_args(args)
        lasting.update(changes)
        state = cscan.StateFile(self.path('state'), '--state', 1)
        state.begin({'args': lasting, 'lists': LISTS, 'boot_id': cscan.read_boot_id()})
        state.workers[0][0].write(dict(SNAPSHOT, passed=7))
        close_state(state)
        given = parser.parse_args(['--resume', self.path('state'), *given])
        state = cscan.StateFile(self.path('state'), '--resume')
        state.distrust = distrust
        try:
            return cscan.resumed_args(given, state)
        finally:
            close_state(state)
            os.unlink(self.path('state'))

    def test_untrusted(self):
        """From a file that others may have written nothing is run or written, unless repeated."""
        rows = [    # what the scan had, what is given now, words of the refusal
            (['-o', '/x/a.cba'], [], '-o /x/a.cba'),
            (['-o', '/x/a.cba'], ['-o', '/x/b.cba'], "'/x/b.cba': that scan has '/x/a.cba'"),
            (['-o', '/x/a.cba'], ['-o', '/x/a.cba'], ''),
            (['--log', '/x/l', '-mf', '/x/m'], ['-mf', '/x/m'], '--log /x/l'),
            (['--status', '/x/s'], [], '--status /x/s'),
            (['--status', '/x/s'], ['--status', '/y'], ''),
            (['-mod', '/x/m.py,print'], [], '-mod /x/m.py,print'),
            (['-mod', '/x/m.py,print'], ['-mod', '/x/m.py,print'], ''),
            (['-mod', 'banner'], [], ''), ([], [], ''), (['-of', '/x/files'], [], '')]
        for more, given, words in rows:
            with self.subTest(more=more, given=given):
                def resumed():
                    return self.resume_with(more, given, distrust='its owner is user 7')
                if words:
                    self.assert_refused([words, '' if given[:1] == ['-o'] else
                                         'its owner is user 7'], resumed)
                else:
                    self.assertEqual(resumed().of, os.path.abspath('cba_files'))
                    self.assertEqual(self.resume_with(more).once, True)     # ours: none needed

    def test_arguments(self):
        """What is kept, what is given anew, and what cannot be."""
        args = self.resume_with(['-n', '5', '-o', 'a.cba', '-mod', './x.py,print', '-q'], ['-d'])
        self.assertEqual((args.n, args.o, args.mod, args.q, args.d, args.state), (
            5, os.path.abspath('a.cba'), os.path.abspath('x.py') + ',print', False, True,
            self.path('state')))
        for words, more, given, changes in (
                ('-d: the results would be lost', [], ['-d'], {}),
                ('another version', [], [], {'unheard': 1}),
                ('cut: it has 1 workers of 2', ['-w', '2'], [], {}),
                ('that scan is complete', ['--max-results', '7'], [], {})):
            with self.subTest(words=words):
                self.assert_refused([words], lambda: self.resume_with(more, given, **changes))
        self.assertEqual(self.resume_with(['--max-results', '8']).max_results, 8)

    def test_round_trip(self):
        """All that a scan may be told comes back as it was, by way of a command line."""
        words = ['-xf', '10.0.0.0/8', '-p', '80-82', '--seed', '7', '-n', '9', '-r', 'auto/900',
                 '-t', '1.5', '-w', '1', '-pr', '3', '-b', '0', '-bi', '127.0.0.1', '-e', '4',
                 '-mcfg', 'a.b=-1', '-mt', '2', '--max-runtime', '1e6', '-st', '5', '-q',
                 '--skip-unresolved', '-c', '127.0.0.1', '-cp', '7', '-ca', '8', '-mod', 'banner']
        args = self.resume_with(words)
        expected = cscan.make_parser().parse_args(['-f', '127.0.0.1', '--once', *words])
        for name, value in vars(expected).items():
            if name not in ('q', 'state', 'resume', 'shard', 'of'):
                self.assertEqual((getattr(args, name), type(getattr(args, name))),
                                 (value, type(value)), name)
        self.assertEqual((args.shard, args.q), ((0, 1), False))

    def test_damaged(self):
        """Arguments that no scan can have: one line that names them."""
        rows = [('w', 65), ('w', True), ('r', 'x'), ('t', -1), ('t', [1]), ('f', []),
                ('f', 'x'), ('f', [1, None]), ('once', 1), ('once', False), ('l', True), ('b', 1e9),
                ('o', 'a\0b'), ('o', {}), ('shard', [5, 5, 5]), ('shard', [3, 2]),
                ('shard', ['0', 1]), ('shard', None), ('names', {'x': ['999.1.1.1']}),
                ('names', []), ('bi', '1.2.3'), ('seed', -1), ('ce', 5), ('d', True), ('f', ['-'])]
        for name, value in rows:
            with self.subTest(name=name, value=value):
                self.assert_refused(['--resume: ', self.path('state')],
                                    lambda: self.resume_with(**{name: value}))


LONG_LISTENER = r"""
import socket, sys
sock = socket.socket()
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.bind(('0.0.0.0', int(sys.argv[1])))
sock.listen(4096)
print('ready', flush=True)
while True:
    sock.accept()[0].close()
"""
SYN_COUNTER = r"""
import signal, socket, struct, sys
# of outgoing frames (SKF_AD_PKTTYPE is PACKET_OUTGOING): IPv4 without options, TCP, only SYN set
program = [(0x20, 0, 0, 0xfffff004), (0x15, 0, 7, 4), (0x28, 0, 0, 12), (0x15, 0, 5, 0x800),
           (0x30, 0, 0, 23), (0x15, 0, 3, 6), (0x30, 0, 0, 47), (0x15, 0, 1, 2), (6, 0, 0, 64),
           (6, 0, 0, 0)]
import ctypes
code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *line) for line in program))
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))     # ETH_P_ALL
sock.setsockopt(socket.SOL_SOCKET, 26, struct.pack('HP', len(program), ctypes.addressof(code)))
sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)         # SO_RCVBUFFORCE
sock.settimeout(0.2)
stopped = []
signal.signal(signal.SIGTERM, lambda *args: stopped.append(1))
print('ready', flush=True)
seen, count = set(), 0
while True:
    try:
        frame = sock.recv(64)
    except socket.timeout:
        if stopped:
            break
        continue
    count += 1
    seen.add(frame[30:34] + frame[36:38])
dropped = struct.unpack('II', sock.getsockopt(263, 6, 8))[1]    # SOL_PACKET, PACKET_STATISTICS
print(len(seen), count, dropped)
"""


@unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
class LongLive(Case):
    """A hundred kills in a network namespace, with every SYN counted; shards by GNU parallel."""

    def setUp(self):
        super().setUp()
        if not can_make_namespaces():
            if REQUIRED:
                raise AssertionError('LIVE=required: needs root and `ip netns`')
            self.skipTest('needs root and `ip netns`')
        self.names = []

    def namespace(self, name):
        """A new network namespace -> its name."""
        name = 'cscan-%d-%s' % (os.getpid(), name)
        subprocess.check_call(['ip', 'netns', 'add', name])
        self.addCleanup(subprocess.call, ['ip', 'netns', 'del', name])
        self.ip('-n', name, 'link', 'set', 'lo', 'up')
        return name

    def ip(self, *words):
        subprocess.check_call(['ip'] + list(words))

    def inside(self, namespace, *command):
        """Start a program in a namespace; it has said that it is ready."""
        process = subprocess.Popen(['ip', 'netns', 'exec', namespace] + list(command),
                                   stdout=subprocess.PIPE)
        self.addCleanup(end_process, process)
        self.assertEqual(process.stdout.readline(), b'ready\n')
        return process

    def outcome(self, name):
        """The SYNs that left: (different targets, all)."""
        self.counter.terminate()
        seen, count, dropped = map(int, self.counter.communicate()[0].split())
        self.assertEqual(dropped, 0, 'the counter was too slow')
        return seen, count

    @staticmethod
    def position(path):
        """How many targets are done by a state file that may be in use."""
        if not os.path.exists(path) or os.path.getsize(path) <= cscan.STATE_START:
            return -1
        with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0,
                                                 access=mmap.ACCESS_READ) as memory:
            pairs = [cscan.SlotPair(memory, at, cscan.SNAPSHOT_SLOT)
                     for at in range(cscan.STATE_START, len(memory), cscan.STATE_WORKER)]
            return sum(value['position'] for value in map(cscan.SlotPair.read, pairs) if value)

    def test_hundred_kills(self):
        """200,000 probes, some silent: each is sent, no result is missing, few are repeated."""
        for workers in (1, 3):
            with self.subTest(workers=workers):
                self.kill_hundred_times(workers)

    def kill_hundred_times(self, workers):
        name = self.namespace('kill%d' % workers)
        for line in ('link add v0 type veth peer name v1', 'addr add 10.98.0.1/24 dev v0',
                     'link set v0 arp off up', 'link set v1 up', 'route add 10.99.0.0/16 dev v0'):
            self.ip('-n', name, *line.split())      # v1 swallows everything
        self.inside(name, sys.executable, '-c', LONG_LISTENER, '8099')
        self.counter = self.inside(name, sys.executable, '-c', SYN_COUNTER)
        state, output = (self.path('%s%d' % (what, workers)) for what in ('state', 'cba'))
        scan = ['ip', 'netns', 'exec', name] + tool('cscan.py', '-q')
        first = ['-f', '127.128.0.0-127.128.74.255,10.99.0.0-10.99.3.31', '-p', '8099,1-9',
                 '--once', '-r', '20000', '-t', '100', '-w', str(workers), '--state', state,
                 '-o', output]
        draw = random.Random(SEED)
        for kill in range(100):             # by progress, not by time: each comes before the end
            args = ['--resume', state] if os.path.exists(state) else first
            process = subprocess.Popen(scan + args, stderr=subprocess.PIPE)
            enough = self.position(state) + draw.randrange(1000)
            wait_until(lambda: self.position(state) > enough or process.poll() is not None)
            time.sleep(draw.uniform(0, 0.03))
            process.kill()
            self.assertEqual(process.communicate()[1], b'')
            self.assertEqual(process.returncode, -signal.SIGKILL, 'kill %d' % kill)
        process = subprocess.Popen(scan + ['--resume', state], stderr=subprocess.PIPE)
        self.assertEqual((process.communicate(timeout=120)[1], process.returncode), (b'', 0))
        seen, count = self.outcome(name)
        self.assertEqual(seen, 200000)
        # what was under way or not yet written: window 2000, and as much again while it is noticed
        self.assertLess(count - seen, 100 * 3 * 2000)
        found = [entry.events[0][2] for entry in cba_entries(output)]
        self.assertEqual(len(set(found)), 75 * 256)
        status, out, err = run('cba_reader.py', '-r', '--unique', output)
        self.assertEqual((status, sorted(out.split())), (0, sorted(set(found))))
        twice = len(found) - 75 * 256
        self.assertEqual(err, 'cba_reader: --unique: %d left out that had been there before\n'
                         % twice if twice else '')

    def test_parallel(self):
        """README: four machines, GNU parallel, one list of results."""
        if not shutil.which('parallel'):
            if REQUIRED:
                raise AssertionError('LIVE=required: needs GNU parallel')
            self.skipTest('needs GNU parallel')
        far = self.namespace('far')
        self.ip('-n', far, 'route', 'add', 'local', '10.64.0.0/16', 'dev', 'lo')
        self.inside(far, sys.executable, '-c', LONG_LISTENER, '8099')
        near = []
        for number in range(1, 5):
            name = self.namespace('shard%d' % number)
            near.append(name)
            for line in ('link add v0 type veth peer name w%d netns %s' % (number, far),
                         'addr add 10.77.%d.1/24 dev v0' % number, 'link set v0 up',
                         'route add 10.64.0.0/16 via 10.77.%d.2' % number):
                self.ip('-n', name, *line.split())
            for line in ('addr add 10.77.%d.2/24 dev w%d' % (number, number),
                         'link set w%d up' % number):
                self.ip('-n', far, *line.split())
        scan = tool('cscan.py', '-q', '-f', '10.64.0.0/22', '-p', '8099,9', '--once', '-r', 2000,
                    '--shard', 'auto', '--shards', 4, '-o', self.path('part{#}.cba'))
        done = subprocess.run(['parallel', '-j4', 'ip', 'netns', 'exec', '{}'] + scan + [':::']
                              + near, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
        self.assertEqual((done.returncode, done.stdout), (0, b''), done.stderr)
        parts = [self.path('part%d.cba' % number) for number in range(1, 5)]
        for part in parts:
            self.assertGreater(len(cba_entries(part)), 150)
        status, out, err = run('cba_reader.py', '-r', *parts)
        self.assertEqual((status, err), (0, ''))
        self.assertEqual(sorted(out.split()), sorted(
            '10.64.%d.%d:8099' % divmod(number, 256) for number in range(1024)))


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
         "LICENSE:1: 'MIT,License'"),
        ('port name', ['-f', '127.0.0.1', '-p', 'sssh'], 1, "-p: 'sssh': 'sssh' is not port"),
        ('top ports', ['-f', '127.0.0.1', '--top-ports', '9999'], 2, "'9999': a whole number from 1 to"),
        ('top and p', ['-f', '127.0.0.1', '--top-ports', '5', '-p', '1'], 2, '--top-ports 5: goes'),
        ('host name', ['-f', 'lab.example.org'], 1, 'with --resolve just HOST'),
        ('exclude list empty', ['-f', '127.0.0.1', '-xf', 'EMPTY'], 1,
         'no ranges in there; where nothing is to be excluded, name /dev/null'),
        ('x and skip-bad', ['-x', '--skip-bad'], 2, '-x: --skip-bad goes with a scan only'),
        ('p and pf', ['-f', '127.0.0.1', '-p', '1', '-pf', 'x'], 2, '-p 1 and -pf x: one of them'),
        ('rate', ['-f', '127.0.0.1', '-r', 'fast'], 2, "-r: 'fast': a number"),
        ('rate 0', ['-f', '127.0.0.1', '-r', '0'], 2, "-r: '0': a number from"),
        ('rate', ['-f', '127.0.0.1', '-r', 'Auto'], 2, 'auto or auto/N was expected'),
        ('auto -a', ['-f', '127.0.0.1', '-r', 'auto', '-a', '50'], 2, 'goes without -m, -a and'),
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
        ('metrics', ['-f', '127.0.0.1', '-mf', 'TEXT'], 1, 'not replaced: it holds something'),
        ('metrics folder', ['-f', '127.0.0.1', '-mf', '/nonexistent/x'], 1,
         "-mf: '/nonexistent/x': No such"),
        ('l and mf', ['-l', '-mf', 'x'], 2, '-l: -mf goes with a scan only'),
        ('x and ce', ['-x', '-c', '127.0.0.1', '-ce', '1'], 2, '-x: -ce goes with a scan only'),
        ('ce without c', ['-f', '127.0.0.1', '-ce', '5'], 2, '-ce 5: repeats the canary: name'),
        ('ce 0', ['-f', '127.0.0.1', '-c', '127.0.0.1', '-ce', '0'], 2, "-ce: '0': a whole"),
        ('log', ['-f', '127.0.0.1', '--log', '/nonexistent/x'], 1,
         "--log: '/nonexistent/x': No such"),
    ]

    def test_mistakes(self):
        """One line that names the value and what was expected, no traceback, nothing started."""
        rows = list(self.MISTAKES)
        files = {'TEXT': self.path('text', b'words'), 'EMPTY': self.path('empty', b'# none\n')}
        processes = [start('cscan.py', *[files.get(arg, arg) for arg in args])
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
            file.write(cscan.pack_csp([(port, 2), (1, 1)], 'x'))
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

    def test_hangup(self):
        """A closed terminal: pending ones end, files are finished, 129; else the scan goes on."""
        port = self.hosts.serving()[1]
        for workers in 1, 2:
            for closes in True, False:
                with self.subTest(workers=workers, closes=closes):
                    name = '%d%d' % (workers, closes)
                    path, status = self.path(name + '.cba'), self.path(name + '.status')
                    master, slave = os.openpty()
                    process = subprocess.Popen(
                        tool('cscan.py', *self.base, '-f', '127.0.0.1', '-p', port, '-o', path,
                             '-w', workers, '--status', status), stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL, stderr=slave)
                    self.addCleanup(end_process, process)
                    os.close(slave)
                    wait_until(lambda: os.path.exists(path) and cba_entries(path, ''))
                    if closes:
                        os.close(master)
                    else:
                        os.rename(status, status + '.1')
                    for pid in [process.pid] + child_pids(process.pid):
                        os.kill(pid, signal.SIGHUP)
                    if not closes:
                        wait_until(lambda: os.path.exists(status) and read_text(status))
                        self.assertIsNone(process.poll())
                        process.terminate()
                        os.close(master)
                    self.assertEqual(process.wait(20), 129 if closes else 143)
                    record = json.loads(read_text(status).splitlines()[-1])
                    self.assertEqual((record['state'], record['reason']), (
                        'stopped', 'the terminal was closed' if closes else 'interrupted'))
                    self.assertEqual(record['results'], len(cba_entries(path, '')))

    def test_old_python(self):
        """The first line that an older Python cannot read says which one is needed."""
        for name in ('cscan.py', 'masscanned.py', 'metrics.py', 'cba_reader.py',
                     'compile_targets.py'):
            with self.subTest(name=name):
                source = read_text(os.path.join(HERE, name))
                before, line, _ = source.partition("\n__version__: 'str' = ")
                self.assertTrue(line)
                self.assertIn('Python 3.6 or newer', source[len(before):].split('\n')[1])
                kinds = [type(node) for node in ast.parse(before).body]
                self.assertEqual(set(kinds) - {ast.Expr, ast.Import}, set())
                self.assertNotRegex(before, '(?m)^ .*f["\']')
                source.encode('ascii')          # Python 2 would stop at any other letter
                status, out, err = run(name, '--version')
                self.assertEqual((status, out), (0, name[:-3] + ' 1.0\n'))

    def test_terminal_input(self):
        """-x, -f - and -xf - on a terminal say what they wait for."""
        rows = [(['-x'], '-x: reading ip:port lines'), (['-l', '-f', '-'], '-f -: reading ranges'),
                (['-l', '-f', '127.0.0.1', '-xf', '-'], '-xf -: reading ranges')]
        for args, words in rows:
            master, slave = os.openpty()
            process = subprocess.Popen(tool('cscan.py', '-n', '1', *args) if '-l' in args else
                                       tool('cscan.py', *args), stdin=slave,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            self.addCleanup(end_process, process)
            os.close(slave)
            self.assertEqual(process.stderr.readline().decode(),
                             'cscan: %s from the terminal; Ctrl-D ends them\n' % words)
            os.close(master)
            process.kill()

    def test_log_times(self):
        """Messages in --log begin with their time; on standard error they do not."""
        log = self.path('log')
        args = ['-f', '127.0.0.1', '-p', '9', '-n', '1', *self.base]
        _, _, err = run('cscan.py', *args, '--log', log)
        self.assertEqual(err.count('\n'), 1)
        for line in read_text(log).splitlines():
            self.assertRegex(line, r'^20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-9:]{8}Z cscan: ')
        self.assertGreater(read_text(log).count('\n'), 1)

    def test_second_interrupt(self):
        """It takes the status line away."""
        said, ends = [], []
        signals = cscan.Signals()
        self.addCleanup(signals.restore)
        signals.console, signals.wind_up = types.SimpleNamespace(shown='12/s'), said.append
        with patched(cscan, complain=said.append), patched(os, _exit=ends.append):
            signals.handle(signal.SIGINT, None)
            self.assertEqual(said, ['interrupted'])
            signals.handle(signal.SIGINT, None)
        self.assertEqual((said[1], ends), ('\r\x1b[K', [130]))

    def test_baked_help(self):
        """-h of a baked copy says what is built in; of the project's it does not."""
        self.assertNotIn('built into this copy', cscan.make_parser().format_help())
        with patched(cscan, BAKED=True, BUILTIN_RANGES='192.0.2.0/24', BUILTIN_PORTS='443',
                     BUILTIN_MODULES='banner'):
            self.assertIn('built into this copy:\n  targets 256 addresses\n  ports   443\n'
                          '  modules banner\n', cscan.make_parser().format_help())

    def test_little_memory(self):
        """Without room for its threads a scan, or -x, ends with a line, not in Thread.start()."""
        def limit():
            resource.setrlimit(resource.RLIMIT_STACK, (1 << 23, 1 << 23))
            resource.setrlimit(resource.RLIMIT_AS, (400 << 20,) * 2)
        for args in (['-f', '127.0.0.1', '-p', '9', '--once', '-w', 2], ['-x']):
            self.assert_stop(self.scan(*args, '-mt', 100, preexec_fn=limit), 1,
                             'argument -mt: 100 threads need 804 MB', 'lower -mt', 'ulimit -v')

    def test_out_of_memory(self):
        """Memory that ends anywhere, or a thread that cannot be started: a line, status 1."""
        for error, words in ((MemoryError(), 'out of memory: lower -mt, -w or -m'),
                             (RuntimeError("can't start new thread"), 'no thread can be started')):
            def run(*args):
                raise error
            err = io.StringIO()
            with patched(cscan, run=run, complain=err.write):
                self.assertEqual(cscan.main(['-f', '127.0.0.1', '--once']), 1)
            self.assert_line(err.getvalue(), words)
        def other(*args):
            raise RuntimeError('another')
        with patched(cscan, run=other), self.assertRaisesRegex(RuntimeError, 'another'):
            cscan.main(['-f', '127.0.0.1', '--once'])

    def test_words(self):
        """A word is an option, an option and a value, or a mistake that names what was meant."""
        parser = cscan.make_parser()
        defaults = vars(parser.parse_args([]))
        rows = [    # what is typed, what it changes
            (['-p80'], {'p': '80'}), (['-p80-90,22:2'], {'p': '80-90,22:2'}), (['-p-'], {'p': '-'}),
            (['-r2000'], {'r': 2000.0}), (['-t100'], {'t': 100.0}), (['-n5'], {'n': 5}),
            (['-m7'], {'m': 7}), (['-w2'], {'w': 2}), (['-b0'], {'b': 0}), (['-e1'], {'e': 1}),
            (['-o=x'], {'o': 'x'}), (['-o=-x'], {'o': '-x'}), (['--seed=4'], {'seed': 4}),
            (['-f', '-'], {'f': ['-']}), (['-mcfg', 'a.b=-1'], {'mcfg': 'a.b=-1'}),
            (['-xf=a', '-x'], {'exclude': ['a'], 'x': True}), (['-mf=m'], {'mf': 'm'})]
        for words, changed in rows:
            with self.subTest(words=words):
                given = vars(parser.parse_args(words))
                self.assertEqual({name: value for name, value in given.items()
                                  if value != defaults[name]}, changed)

    def test_two_words(self):
        """The options of the C program, as it takes them."""
        rows = [('-f', 'x', 'f'), ('-pf', 'x', 'pf'), ('-fp', 'x', 'pf'), ('-p', '80', 'p'),
                ('-o', 'x', 'o'), ('-of', 'x', 'of'), ('-mod', 'x', 'mod'), ('-mcfg', 'x', 'mcfg'),
                ('-r', '7', 'r'), ('-t', '7', 't'), ('-m', '7', 'm'), ('-pr', '7', 'pr'),
                ('-b', '7', 'b'), ('-bi', '1.2.3.4', 'bi'), ('-bt', '7', 'bt'), ('-a', '7', 'a'),
                ('-ct', '7', 'ct'), ('-e', '7', 'e'), ('-c', '1.2.3.4', 'c'), ('-cp', '7', 'cp'),
                ('-ca', '7', 'ca'), ('-st', '7', 'st'), ('-mf', 'x', 'mf'), ('-x', '', 'x'),
                ('-l', '', 'l'), ('-d', '', 'd')]
        for option, value, name in rows:
            with self.subTest(option=option):
                given = vars(cscan.make_parser().parse_args(list(filter(None, [option, value]))))
                self.assertEqual(str(given[name]).strip("[]'").replace('7.0', '7'),
                                 value or 'True')

    def test_typos(self):
        """Nothing is glued but a digit; the message names what was meant, and exit 2."""
        rows = [
            ('-once', '; did you mean --once?'), ('-exclude', '; did you mean --exclude?'),
            ('-resume=x', '; did you mean --resume=x?'), ('--f', '; did you mean -f?'),
            ('--onc', '; did you mean --once?'), ('--ocne', '; did you mean --once?'),
            ('-xf192.0.2.1', '; did you mean -xf 192.0.2.1?'), ('-fx', '; did you mean -f x?'),
            ('-otest.cba', '; did you mean -o test.cba?'), ('-ct500', '; did you mean -ct 500?'),
            ('-oX', ': --format xml or nmap-xml, or cba_reader.py FILE --to xml'),
            ('-oA', ': -o FILE, then '), ('-iL', ': -f FILE'), ('-nope', ': no such option (see'),
            ('-lx', ': no such option (see'), ('--', ': no such option (see'),
            ('-5', ': no such option (see'), ('-r\u0664', ': no such option'),
            ('-Z\n', "'-Z\\n': no such option")]
        for word, message in rows:
            with self.subTest(word=word):
                err = io.StringIO()
                with patched(cscan, complain=err.write), self.assertRaises(SystemExit) as left:
                    cscan.make_parser().parse_args(['-l', word])
                self.assertEqual(left.exception.code, 2)
                self.assert_line(err.getvalue(), message)
        for words in (['-o', '--once'], ['-t', '-5'], ['-f', '-x']):
            err = io.StringIO()
            with patched(cscan, complain=err.write), self.assertRaises(SystemExit):
                cscan.make_parser().parse_args(words)
            self.assert_line(err.getvalue(), 'argument %s: a value was expected before %r; one '
                             'that begins with - is written as %s=%s' % (
                                 *words, *words))

    def test_never_ends(self):
        """The start line says when a scan does not end by itself."""
        space = cscan.Space([(1, 9)], [(80, 1)])
        pace = cscan.plan_pace(520.0, 800.0, None, 90.0, None, 0)
        for words, ends in (([], False), (['--once', '--seed', '1'], True), (['-n', '3'], True),
                            (['--max-results', '3'], True), (['--max-runtime', '3'], True)):
            args = cscan.make_parser().parse_args(words)
            args.shard = 0, 1
            text = cscan.start_text(pace, args, space, args.n or (9 if args.once else None))
            self.assertEqual('without end' in text, not ends, words)

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

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
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

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
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
        self.assertRegex(shown, r'\r[01] open, [0-9]+/s, [0-9]+ sent \([0-9.]+%\), [0-9.]+ s left, '
                                r'[0-9]+ pending\x1b\[K')
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

    def test_x_lines(self):
        """-x: what other tools write, open ports only."""
        for whose, text, ports in RESULT_LINES:
            with self.subTest(whose, text=text[:60]):
                self.assertEqual(cscan.line_results(text), None if ports is None else [
                    ('192.0.2.7', port) for port in ports])

    def test_x_own_formats(self):
        """Formats of one line a result are read back; entries of other modules are not ports."""
        for name in 'json', 'csv', 'list', 'grepable', 'masscan-json', 'zmap', 'naabu':
            for module, ports in ('', [('192.0.2.7', 80)]), ('rfb', []):
                record = cscan.Record(None, module, [(CBA_STR, 0, '192.0.2.7:80')], {}, 5)
                writer = cscan.FormatWriter(name, 'cscan', 'x', True)
                lines = writer.begin(1) + writer.record(record) + writer.end(9)
                with self.subTest(name, module=module):
                    found = [cscan.line_results(line) for text in lines
                             for line in text.split('\n')]
                    self.assertNotIn(None, found)
                    self.assertEqual(sum(found, []), ports)

    def test_x_long_lines(self):
        """A line without an end takes no more memory than the longest that is read."""
        data = b'1.2.3.4:5\n' + b'x' * 25 + b'\n1.2.3.4:6\n' + b'y' * 19 + b'\n' + b' ' * 40
        with patched(cscan, RESULT_LINE_MAX=20):
            self.assertEqual(list(cscan.result_lines(io.BytesIO(data))),
                             ['1.2.3.4:5', None, '1.2.3.4:6', 'y' * 19, None])
        status, out, err = run('cscan.py', '-x', stdin=b'x' * (5 << 20) + b'\n1.2.3.4:5\n')
        self.assertEqual((status, out), (1, '1.2.3.4:5\n'))
        self.assertEqual(err, 'cscan: standard input:1: a line of more than 4194304 octets: ip:port '
                              'was expected\n')
        many = ', '.join('%d/open/tcp//x///' % port for port in range(1, 65536)).encode()
        _, out, err = run('cscan.py', '-x', '-mod', 'print', stdin=NMAP.encode() + b'Ports: ' + many)
        self.assertEqual((out.count('\n'), err), (65535, ''))

    def test_x_passed_over(self):
        _, out, err = run('cscan.py', '-x', stdin=(NMAP + 'Status: Up\nopen tcp 80 1.2.3.4 5\n').encode())
        self.assertEqual((out, err), ('1.2.3.4:80\n', 'cscan: standard input: 1 line without an open '
                                                      'TCP port passed over\n'))

    def test_help(self):
        status, out, err = run('cscan.py', '-h')
        self.assertEqual((status, err), (0, ''))
        for word in ('(default: 520)', 'max_open_files (hard)', 'conntrack_max',
                     'conntrack_span (s)',
                     'max_user_watches', 'local_port_range', 'print', 'examples:'):
            self.assertIn(word, out)

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
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


    def test_canary_again_and_again(self):
        """-ce: a bit for each failure in the file, one note, and the final line."""
        path = self.path('canary.cba')
        status, _, err = run('cscan.py', '-f', '127.0.0.0/26', '-p', 9, '--once', '-ct', 5000,
                             '-t', 300, '-c', '127.0.0.1', '-cp', self.hosts.closed()[1],
                             '-ca', 5, '-ce', 10, '-o', path, *self.base)
        self.assertEqual(status, 0)
        self.assertEqual(err.count('not open\n'), 2, err)       # the note, the final line
        failed, ended = re.search(r'canary (\d+) of (\d+) failed, last: not open\n$', err).groups()
        self.assertEqual(failed, ended)
        entry, = cba_entries(path, 'cscan')
        self.assertEqual([code for _, code, _ in entry.events].count(22), int(failed))
        self.assertGreater(int(failed), 1)


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

    def test_threads(self):
        """They begin with the first result, as many as can be; where none can, that is told."""
        class Few(threading.Thread):
            def start(self):
                if not room:
                    raise RuntimeError("can't start new thread")
                room.pop()
                super().start()

        for most in 0, 2, 3:
            room, console, sink = [0] * most, StubConsole(), KeepingSink()
            sink.finish = lambda thread: None
            with self.subTest(most=most), patched(cscan.threading, Thread=Few):
                crew = cscan.Crew([], {}, sink, console, 3, 9)
                self.assertEqual(crew.threads, [])
                for _ in range(2):
                    crew.put('127.0.0.1', 80)
                self.assertEqual((len(crew.threads), len(room)), (most, 0))
                self.assertEqual(console.notes, [
                    'warning: 2 module threads (-mt): no more can be started'] * (most == 2))
                self.assertEqual('not one' in crew.failed, most == 0)
                if not most:
                    crew.limit = 2
                    self.assertFalse(crew.full(), 'the clock of the scan would stand still')
                    with self.assertRaisesRegex(cscan.UserError, 'not one can be started'):
                        crew.put_wait('127.0.0.1', 80)
                crew.close()
                self.assertEqual(crew.passed, 2, 'results are not lost')

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
        entry, = cba_entries(cba, 'shot')
        self.assertEqual(entry.events, [
            (cba_reader.CBA_STR, 0, 'later'), (cba_reader.CBA_FILE, 12, 'shots/../10.0.0.1.png'),
            (cba_reader.CBA_DATA, 3, b'abc'), (cba_reader.CBA_BIT, 6, True),
            (cba_reader.CBA_INT32, 0, -1), (cba_reader.CBA_INT64, 0, 1 << 40)])

    TALKING = """
import cscan, os, time
@cscan.module('talk')
def check(target, out, options):
    out.later('talk://%s' % target)
    if os.environ.get('HANG'):
        time.sleep(60)
    out.bit(1)
@cscan.module('even', filter=True)
def check_even(target, out, options):
    return target.port % 2 == 0
"""

    def test_open_ports(self):
        """What passes the filters has an entry of its own before those of modules, once."""
        path = self.path('talk.py', self.TALKING.encode())
        stdin = b''.join(b'10.0.0.1:%d\n' % port for port in range(1, 5))
        for modules, entries in ((path, ['', 'talk'] * 2), ('%s,print' % path, ['', 'talk'] * 2),
                                 ('print,' + path, ['', 'talk'] * 2)):
            cba = self.path('%d.cba' % next(FREE_PORT))
            with self.subTest(modules=modules):
                done = run('cscan.py', '-x', '-mt', 1, '-mod', modules, '-o', cba, stdin=stdin)
                found = cba_entries(cba, None)
                self.assertEqual((done[0], done[1], [each.module for each in found]),
                                 (0, '', entries))
                self.assertEqual([each.events for each in found if not each.module],
                                 [[(CBA_STR, 0, '10.0.0.1:%d' % port)] for port in (2, 4)])
                out = call(cba_reader.main, ['--to', 'zmap', cba])[1]
                self.assertEqual(out, 'saddr,sport\n10.0.0.1,2\n10.0.0.1,4\n')
        out = run('cscan.py', '-x', '-mt', 1, '-mod', path, stdin=stdin)[1]
        self.assertEqual(out, ''.join('module: talk\ntalk://10.0.0.1:%d\nbit set for code 1\n'
                                      % port for port in (2, 4)))
        out = run('cscan.py', '-x', '-mt', 1, '-mod', path, '--format', 'naabu', stdin=stdin)[1]
        self.assertEqual([json.loads(line)['port'] for line in out.splitlines()], [2, 4])

    def test_filters_only(self):
        """With -o each port that a filter lets pass is kept, and no warning says otherwise."""
        cba = self.path('f.cba')
        text = self.TALKING[self.TALKING.index('@cscan.module(\'even'):]
        path = self.path('f.py', ('import cscan\n' + text).encode())
        for args, words in ((['-o', cba], ''), ([], 'filters only')):
            status, out, err = run('cscan.py', '-x', '-mod', path, *args, stdin=b'10.0.0.1:2\n')
            self.assertEqual((status, out, 'filters only' in err), (0, '', bool(words)))
        self.assertEqual([each.dict[0] for each in cba_entries(cba)], ['10.0.0.1:2'])

    def test_killed_in_a_talk(self):
        """kill -9 while modules talk: their ports are in the file."""
        path, cba = self.path('talk.py', self.TALKING.encode()), self.path('k.cba')
        process = subprocess.Popen(tool('cscan.py', '-x', '-mt', 2, '-mod', path, '-o', cba),
                                   stdin=subprocess.PIPE, env=dict(os.environ, HANG='1'))
        process.stdin.write(b'10.0.0.1:2\n10.0.0.1:4\n')
        process.stdin.flush()
        wait_until(lambda: os.path.exists(cba) and len(cba_entries(cba)) == 2, 5)
        process.kill()
        process.communicate(timeout=20)
        self.assertEqual({each.dict[0] for each in cba_entries(cba, None)},
                         {'10.0.0.1:2', '10.0.0.1:4'})

    def test_open_port_is_written_first(self):
        """It is flushed before a module runs, not half a second later."""
        order = []

        class Sink(KeepingSink):
            def finish(self, thread):
                order.append('finished')

            def flush(self):
                order.append('flushed')
        sink = Sink()
        talk = cscan.Module('talk', lambda *_: order.append('talk'), {}, {}, False, (), 'talk', '')
        for modules, wanted in (([talk], ['finished', 'flushed', 'talk', 'finished']),
                                ([cscan.MODULES['print']], ['finished'])):
            crew = cscan.Crew(modules, {'talk': None, 'print': None}, sink, StubConsole(), 1, 9)
            crew.ports = True
            crew.examine(cscan.Target('10.0.0.1', 2, ''), cscan.Out(sink, 1))
            self.assertEqual(order, wanted)
            order.clear()
        crew = cscan.Crew([talk], {'talk': None}, sink, StubConsole(), 1, 9, most=1)
        for _ in range(3):                  # one more than are wanted is not shown
            crew.examine(cscan.Target('10.0.0.1', 2, ''), cscan.Out(sink, 1))
        self.assertEqual(order, ['talk', 'finished'])

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
            with self.assertRaisesRegex(ConnectionError, 'ended too early'):
                sock.read_exact(3)


# ==== Modules against servers =========================================================

RFB8 = b'RFB 003.008\n'
X11_YES = b'\1\0\x0b\0\0\0'
WIN, TLS_ONLY = (CBA_BIT, 6, True), (CBA_BIT, 7, True)
GOOD, KINDA_GOOD = (CBA_BIT, 4, True), (CBA_BIT, 5, True)
READ_FAIL = CBA_BIT, 3, True
ENDS, RESETS, DRIPS = 'close', 'reset', 'drip'       # steps of a server; DRIPS: for ever

# name, steps (octets: send, number: read so many), events, what else it raises
RFB_TALKS = [
    ('no password', [RFB8, 12, b'\1\1'], [WIN], ''),
    ('password', [RFB8, 12, b'\1\2'], [], ''),
    ('VeNCrypt', [RFB8, 12, b'\2\x02\x13'], [(CBA_BIT, 9, True)], ''),
    ('VeNCrypt, none', [RFB8, 12, b'\2\x13\1'], [WIN, (CBA_BIT, 9, True)], ''),
    ('255 types', [RFB8, 12, b'\xff' + bytes(range(1, 256))], [WIN, (CBA_BIT, 9, True)], ''),
    ('255 types promised', [RFB8, 12, b'\xff\1\1\1', ENDS], [READ_FAIL], 'too early'),
    ('TLS and password', [RFB8, 12, b'\2\x12\2'], [], ''),
    ('TLS, no TLS', [RFB8, 12, b'\1\x12', 1, b'HTTP/1.1 400 Bad\r\n'],
     [TLS_ONLY, (CBA_BIT, 8, True)], 'TLS: wrong version number'),
    ('TLS, closed', [RFB8, 12, b'\1\x12', 1, ENDS], [TLS_ONLY, (CBA_BIT, 8, True)], 'e'),
    ('3.7, no password', [b'RFB 003.007\n', 12, b'\1\1'], [WIN], ''),
    ('3.6, no password', [b'RFB 003.006\n', 12, b'\0\0\0\1'], [WIN], ''),
    ('reason', [RFB8, 12, b'\0\0\0\0\3no\xe9'], [(CBA_STR, 5, 'Error: no\xe9')], ''),
    ('reason of nothing', [RFB8, 12, bytes(5)], [(CBA_STR, 5, 'Error: ')], ''),
    ('reason of 4 GB', [RFB8, 12, b'\0\xff\xff\xff\xff' + b'x' * 9000],
     [(CBA_STR, 5, 'Error: ' + 'x' * 511)], ''),
    ('reason cut', [RFB8, 12, b'\0\0\0\1\0why', ENDS], [(CBA_STR, 5, 'Error: why')], ''),
    ('reason missing', [RFB8, 12, b'\0\0\0\1\0', ENDS], [READ_FAIL], 'too early'),
    ('3.3, no password', [b'RFB 003.003\n', 12, b'\0\0\0\1'], [WIN], ''),
    ('3.3, password', [b'RFB 003.003\n', 12, b'\0\0\0\2'], [], ''),
    ('3.3, reason', [b'RFB 003.003\n', 12, b'\0\0\0\0\0\0\0\4full'],
     [(CBA_STR, 5, 'Error: full')], ''),
    ('3.3, short', [b'RFB 003.003\n', 12, b'\0\0\0', ENDS], [READ_FAIL], 'too early'),
    ('no types', [RFB8, 12, ENDS], [READ_FAIL], 'too early'),
    ('another protocol', [b'SSH-2.0-OpenSSH_9\r\n'], [(CBA_DATA, 2, b'SSH-2.0-Open')], ''),
    ('no digits', [b'RFB 003.0x8\n'], [(CBA_DATA, 2, b'RFB 003.0x8\n')], ''),
    ('greeting cut', [b'RFB 003', ENDS], [(CBA_DATA, 2, b'RFB 003')], ''),
    ('drip', [RFB8, 12, b'\xff', DRIPS], [READ_FAIL], 'timed out'),
    ('silent', [], [], 'no greeting'),
    ('closed', [ENDS], [], 'no greeting'),
    ('reset', [RESETS], [], 'no greeting'),
]
RFB_VERSIONS = [                            # what it says, what we answer
    ('003.003', (3, 3)), ('003.005', (3, 5)), ('003.006', (3, 6)), ('003.007', (3, 7)),
    ('003.008', (3, 8)), ('003.014', (3, 4)), ('003.016', (3, 6)), ('003.009', (3, 8)),
    ('003.889', (3, 8)), ('004.000', (3, 8)), ('004.001', (3, 8)), ('005.000', (3, 8)),
    ('003.015', (3, 8)), ('000.000', (0, 0)), ('3.8', None)]
X11_TALKS = [
    ('open', [12, X11_YES], [GOOD], ''),
    ('not version 11', [12, b'\1\0\x0a\0\0\0'], [KINDA_GOOD], ''),
    ('cut', [12, X11_YES[:4], ENDS], [KINDA_GOOD], ''),
    ('refused', [12, b'\0\x16\x0b\0\0\0'], [], ''),
    ('authenticate', [12, b'\2\0\0\0\0\0'], [], ''),
    ('closed', [12, ENDS], [(CBA_BIT, 2, True)], 'too early'),
    ('silent', [], [(CBA_BIT, 2, True)], 'timed out'),
]
SSH_LINE = 'SSH-2.0-\x1b[31m\u202ex'
HTTP_ASKED = len(b'GET / HTTP/1.0\r\nHost: 127.0.0.1:12345\r\nUser-Agent: cscan/1.0\r\n'
                 b'Accept: */*\r\n\r\n')
PROBED = CBA_STR, 5, 'http'
BANNER_TALKS = [                            # as above, and in place of what it raises: the line
    ('speaks first', [b'220 hello\r\n'], [(CBA_STR, 2, '220 hello\r\n')],
     'greeting 220 hello'),
    ('in pieces', [b'220-', b'one\r\n', b'220 two\r\n', ENDS],
     [(CBA_STR, 2, '220-one\r\n220 two\r\n')], 'greeting 220-one\\r\\n220 two'),
    ('hostile', [SSH_LINE.encode() + b'\xff\n\x9b'],
     [(CBA_STR, 2, SSH_LINE.encode().decode('latin-1') + '\xff\n\x9b')],
     r'greeting SSH-2.0-\x1b[31m\u202ex\xff\n\x9b'),
    ('too much', [b'y' * 300000], [(CBA_STR, 2, 'y' * 2048)], 'greeting ' + 'y' * 2048),
    ('drip', [DRIPS], [], ''),
    ('http', [HTTP_ASKED, b'HTTP/1.0 200 OK\r\n\r\n', ENDS],
     [PROBED, (CBA_STR, 2, 'HTTP/1.0 200 OK\r\n\r\n')], 'http HTTP/1.0 200 OK'),
    ('silent', [], [PROBED, (CBA_BIT, 3, True)], 'silent'),
    ('closed', [ENDS], [(CBA_BIT, 4, True)], 'closed'),
    ('reset', [RESETS], [(CBA_BIT, 4, True)], 'closed'),
    ('closed when asked', [10, ENDS], [PROBED, (CBA_BIT, 4, True)], 'closed'),
]
TLS_PEM = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgdRa9QOtPkaAgTmXJ
VMWFAzKR5+v/vlBjCAP91yPaWKmhRANCAAQvATdsZLuLwz17gzv4LKb+qib2s7gA
LT398CT6imtguswrANd8HaVy9kPjYUzwlKalYc2W7FqiI9eZQ6tvqXBW
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBqjCCAU+gAwIBAgIUJMOq9JTnSx8WgpEnsyzIqVSE3GwwCgYIKoZIzj0EAwIw
KTEOMAwGA1UECgwFVGVzdHMxFzAVBgNVBAMMDmJhbm5lci5leGFtcGxlMCAXDTI2
MTEyMTEwMDUwOFoYDzIxMjYxMDI4MTAwNTA4WjApMQ4wDAYDVQQKDAVUZXN0czEX
MBUGA1UEAwwOYmFubmVyLmV4YW1wbGUwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AAQvATdsZLuLwz17gzv4LKb+qib2s7gALT398CT6imtguswrANd8HaVy9kPjYUzw
lKalYc2W7FqiI9eZQ6tvqXBWo1MwUTAdBgNVHQ4EFgQUDouTwplPLFwEe8iRyzuS
oCBtBg0wHwYDVR0jBBgwFoAUDouTwplPLFwEe8iRyzuSoCBtBg0wDwYDVR0TAQH/
BAUwAwEB/zAKBggqhkjOPQQDAgNJADBGAiEArsll/C3UwOVGLdQPW/LcNLTzRwIz
eOBHHEtH9I43vI8CIQCc3Zk3RiPw4LItWsFT/fZzK7qlXqAGXnIJyTPe1dPHYA==
-----END CERTIFICATE-----
"""


def anonymous_context():
    """A server's, for Diffie-Hellman without certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers('aNULL:@SECLEVEL=0')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        context.options |= ssl.OP_NO_TLSv1_3
    return context


def certified_context(path, tls1=False):
    """A server's, with the certificate above; tls1: TLS 1.0 only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with open(path, 'w') as file:
        file.write(TLS_PEM)
    context.load_cert_chain(path)
    if tls1:
        context.set_ciphers('ALL:@SECLEVEL=0')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            context.maximum_version = ssl.TLSVersion.TLSv1
    return context


class KeepingSink:
    """Keeps the events of one entry; deferred ones come with the first real one."""
    failed = ''

    def __init__(self):
        self.events = []

    def write(self, thread, events):
        self.events += events


class Talks(Case):
    """rfb, x11, banner and checkcookie against servers that do what a table says."""

    QUICK = 'NAME.read_timeout=120,NAME.conn_timeout=2000'
    QUICK_BANNER = QUICK + ',banner.wait=20'

    def setUp(self):
        super().setUp()
        self.hosts = Hosts(self)

    def serve(self, *talks):
        """Each connection gets the next of these functions -> the server's port."""
        listener = self.hosts.listener(backlog=len(talks) + 1)

        def each(peer, act):
            with contextlib.suppress(OSError), peer:
                act(peer)

        def accept():
            with contextlib.suppress(OSError):
                for act in talks:
                    peer, _ = listener.accept()
                    self.addCleanup(peer.close)
                    peer.settimeout(20)
                    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=each, args=(peer, act), daemon=True).start()
        threading.Thread(target=accept, daemon=True).start()
        self.addCleanup(listener.shutdown, socket.SHUT_RDWR)
        return listener.getsockname()[1]

    @staticmethod
    def play(*steps):
        """The function that plays a server's steps, then waits for the client to go."""
        def act(peer):
            for step in steps:
                if isinstance(step, bytes):
                    peer.sendall(step)
                elif isinstance(step, int):
                    peer.recv(step, socket.MSG_WAITALL)
                elif step is RESETS:
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
                if step in (ENDS, RESETS):
                    return
                while step is DRIPS:
                    peer.sendall(b'd')
                    time.sleep(0.01)
            while peer.recv(65536):
                pass
        return act

    def examine(self, name, port, settings='', sink=None):
        """A module on a port -> (events without head, why it raised OSError)."""
        each = cscan.find_module(name)
        out = cscan.Out(sink or KeepingSink(), 1)
        out.begin(each.entry)
        error = ''
        options = cscan.module_options([each], settings.replace('NAME', name))[each.name]
        try:
            each.check(cscan.Target('127.0.0.1', port, ''), out, options)
        except OSError as caught:
            error = cscan.why(caught)
        return getattr(out.sink, 'events', None), error

    def all_at_once(self, name, jobs):
        """(server's function, settings) pairs -> (port, events, why it raised) of each."""
        found = [None] * len(jobs)

        def talk(index, port, settings):
            found[index] = (port,) + self.examine(name, port, settings)
        threads = [threading.Thread(target=talk, args=(index, self.serve(act), settings))
                   for index, (act, settings) in enumerate(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    def assert_talk(self, name, port, events, raised, found):
        scheme = {'rfb': 'vnc'}.get(name, name)
        head = [(cscan.CBA_HEAD, 0, name), (CBA_STR, 0, '%s://127.0.0.1:%d' % (scheme, port))]
        self.assertEqual(found[0], (head if events else []) + events)
        (self.assertIn if raised else self.assertEqual)(raised, found[1])

    def assert_talks(self, name, rows):
        found = self.all_at_once(name, [(self.play(*steps), '' if row not in (
            'silent', 'drip') else self.QUICK) for row, steps, _, _ in rows])
        for (row, _, events, raised), (port, *got) in zip(rows, found):
            with self.subTest(row):
                self.assert_talk(name, port, events, raised, got)

    def test_rfb(self):
        self.assert_talks('rfb', RFB_TALKS)

    def test_rfb_versions(self):
        for text, version in RFB_VERSIONS:
            with self.subTest(text):
                self.assertEqual(cscan.rfb_version(b'RFB %s\n' % text.encode()), version)

    def test_rfb_says(self):
        """The version line that we send, and type 18 once it is the only one."""
        heard = []

        def act(peer):
            peer.sendall(b'RFB 003.889\n')
            heard.append(peer.recv(12, socket.MSG_WAITALL))
            peer.sendall(b'\2\x12\x12')
            heard.append(peer.recv(1))
        port = self.serve(act)
        self.examine('rfb', port, self.QUICK)
        self.assertEqual(heard, [b'RFB 003.008\n', b'\x12'])

    def test_rfb_anonymous_tls(self):
        """Type 18: the types inside count; a certificate is not wanted, and none is there."""
        inner = [(b'\1\1', [WIN], ''), (b'\1\2', [], ''),
                 (b'\2\1', [READ_FAIL], 'too early'),      # ends with a close_notify alert
                 (b'\3\1', [READ_FAIL], 'too early'),      # ends without
                 (b'\0\0\0\0\2no', [(CBA_STR, 5, 'Error: no')], '')]

        def tls(octets):
            def server(peer):
                peer.sendall(RFB8)
                peer.recv(12, socket.MSG_WAITALL)
                peer.sendall(b'\1\x12')
                peer.recv(1)
                with context.wrap_socket(peer, server_side=True) as secure:
                    secure.sendall(octets)
                    if octets[0] == 2:
                        secure.unwrap()
                    if octets[0] < 2:
                        secure.recv(1)
            return server
        context = anonymous_context()
        port = self.serve(*[tls(octets) for octets, _, _ in inner])
        for octets, events, raised in inner:
            with self.subTest(octets=octets):
                self.assert_talk('rfb', port, [TLS_ONLY] + events, raised,
                                 self.examine('rfb', port))

    def test_closing_at_each_octet(self):
        """Whatever they say, in pieces, however short: an entry or an OSError, no bug."""
        whole = (('rfb', RFB8 + b'\2\x12\x12'), ('rfb', RFB8 + b'\0\0\0\0\3abc'),
                 ('rfb', b'RFB 003.003\n\0\0\0\1'), ('x11', X11_YES), ('banner', b'220 x\r\n'))
        cuts = [(name, text[:size]) for name, text in whole for size in range(len(text) + 1)]
        port = self.serve(*[self.play(*([text] if text else []) + [ENDS]) for _, text in cuts])
        for name, text in cuts:
            with self.subTest(name=name, text=text):
                events, error = self.examine(name, port, self.QUICK)
                self.assertTrue(events or error or name == 'x11' or text == RFB8[:-1])

    def test_not_reachable(self):
        port = self.hosts.closed()[1]
        for name in ('rfb', 'x11', 'banner'):
            with self.subTest(name):
                self.assert_talk(name, port, [(CBA_BIT, 1, True)], 'Connection refused',
                                 self.examine(name, port))

    def test_time_for_tls(self):
        """One second more than the talk."""
        def start_tls(sock, anonymous):
            deadlines.append(sock.deadline)
        deadlines, begin = [], time.monotonic()
        port = self.serve(self.play(RFB8, 12, b'\1\x12', 1, b'\1\1'))
        with patched(cscan.TimedSocket, start_tls=start_tls):
            self.examine('rfb', port, 'rfb.read_timeout=3000')
        self.assertGreater(deadlines[0] - begin, 4)

    def test_timed_socket(self):
        """What the deadline and a reset during connect() do."""
        class Early(socket.socket):
            def connect(self, address):
                super().connect(address)
                raise ConnectionResetError(errno.ECONNRESET, 'Connection reset by peer')
        port = self.serve(self.play(b'xx'), self.play(b'y', ENDS))
        with cscan.TimedSocket('127.0.0.1', port, 5000) as sock:
            self.assertEqual(sock.read_exact(1), b'x')
            sock.deadline = time.monotonic()
            self.assertRaises(socket.timeout, sock.read_some, 1)
        with patched(cscan, new_tcp_socket=lambda source: Early()):
            with cscan.TimedSocket('127.0.0.1', port, 5000) as sock:
                self.assertEqual(sock.read_most(9), b'y')

    def test_hear(self):
        """A long wait for the first octets, a short one for each of the others."""
        class Peer:
            def read_some(self, limit, wait_ms):
                asked.append((limit, wait_ms))
                if not pieces:
                    raise socket.timeout('timed out')
                return pieces.pop(0)
        for pieces, limit, found, waits in (
                ([b'ab', b'c'], 9, (b'abc', False), [(9, 7), (7, 200), (6, 200)]),
                ([b'ab', b'c'], 3, (b'abc', False), [(3, 7), (1, 200)]),
                ([b'ab', b''], 9, (b'ab', True), [(9, 7), (7, 200)]),
                ([], 9, (b'', False), [(9, 7)])):
            asked = []
            self.assertEqual((cscan.hear(Peer(), 7, limit), asked), (found, waits))

    def test_local_errors(self):
        """No descriptors, no ports: counted, and nothing is said about the target."""
        def refuse(source):
            raise OSError(number, os.strerror(number))
        for name, number in itertools.product(('rfb', 'x11', 'banner'), (
                errno.EMFILE, errno.EADDRNOTAVAIL, errno.EAGAIN, errno.EPERM)):
            with self.subTest(name=name, number=number), patched(cscan, new_tcp_socket=refuse):
                self.assertEqual(self.examine(name, 1), ([], os.strerror(number)))

    def test_x11(self):
        self.assert_talks('x11', X11_TALKS)

    def banners(self, jobs):
        """As all_at_once -> entries without their beginning, lines, why it raised."""
        for port, events, error in self.all_at_once('banner', jobs):
            entry = [event for event in events if event[0] != cscan.CBA_HEAD]
            self.assertEqual(entry.pop(0), (CBA_STR, 0, 'banner://127.0.0.1:%d' % port))
            line = cscan.banner_line('TARGET', {code: value for _, code, value in entry})
            yield entry, cscan.printable(line), error

    def test_banner(self):
        """Whatever comes, in entries and in lines."""
        found = self.banners([(self.play(*steps), 'banner.wait=%d,banner.read_timeout=%d' % (
            5000 if steps and not isinstance(steps[0], int) else 100,
            300 if name in ('silent', 'drip') else 5000)) for name, steps, _, _ in BANNER_TALKS])
        for (name, _, events, line), (entry, words, error) in zip(BANNER_TALKS, found):
            with self.subTest(name):
                if name == 'drip':
                    self.assertRegex(words, '^TARGET greeting d{2,}$')
                    continue
                self.assertEqual((entry, words, error), (events, 'TARGET ' + line, ''))

    def test_banner_request(self):
        """One request of HTTP/1.0 with the address and who asks; none with probe=none."""
        heard = []

        def act(peer):
            heard.append(peer.recv(1000))
        port = self.serve(act, act)
        self.examine('banner', port, self.QUICK_BANNER + ',banner.agent=us/+http://us.example/')
        self.assertEqual(heard, [b'GET / HTTP/1.0\r\nHost: 127.0.0.1:%d\r\nUser-Agent: us/+http:'
                                 b'//us.example/\r\nAccept: */*\r\n\r\n' % port])
        events, _ = self.examine('banner', port, self.QUICK_BANNER + ',banner.probe=none')
        self.assertEqual(events[2:], [(CBA_BIT, 3, True)])
        self.assertIn(b'\r\nHost: 192.0.2.1\r\n',
                      cscan.http_request(cscan.Target('192.0.2.1', 443, ''), 'a'))

    def tls_talks(self):
        """name, probe, what the server does, how the line begins, codes of the entry."""
        context = certified_context(self.path('tls.pem'))

        def secure(*steps):
            def act(peer):
                with context.wrap_socket(peer, server_side=True) as inside:
                    for step in steps:
                        inside.sendall(step) if step else inside.recv(1000)
                    said = inside.recv(1)
                    if said:                # more than it should
                        inside.sendall(said)
            return act
        name = r'TLSv1\.[23] CN=banner\.example'
        return [
            ('silent inside', 'tls', secure(), 'tls %s' % name, [5, 6, 7]),
            ('speaks inside', 'tls', secure(b'220 in\r\n'), 'tls %s 220 in' % name, [5, 6, 7, 2]),
            ('https', 'https', secure(b'', b'HTTP/1.0 200 OK\r\n'),
             'https %s HTTP/1.0 200 OK' % name, [5, 6, 7, 2]),
            ('http, not TLS', 'tls', self.play(5, b'HTTP/1.1 400 Bad\r\n'),
             'no-tls TLS: wrong version number HTTP/1.1 400 Bad', [5, 8, 2]),
            ('alert', 'tls', self.play(5, b'\x15\3\3\0\2\2\x28'),
             'no-tls TLS: .*handshake failure', [5, 8]),
            ('closes', 'tls', self.play(5, ENDS), 'no-tls .*', [5, 8]),
            ('silent', 'tls', self.play(), 'no-tls timed out', [5, 8]),
            ('speaks first', 'tls', self.play(b'220 x\r\n'), 'greeting 220 x', [2])]

    def test_banner_tls(self):
        talks = self.tls_talks()
        der = ssl.PEM_cert_to_DER_cert(TLS_PEM[TLS_PEM.index('-----BEGIN CERT'):])
        found = self.banners([(act, 'banner.wait=%d,banner.probe=%s,banner.read_timeout=%d' % (
            5000 if codes == [2] else 120, probe, 300 if name == 'silent' else 5000))
            for name, probe, act, _, codes in talks])
        for (name, _, _, line, codes), (entry, words, error) in zip(talks, found):
            with self.subTest(name):
                self.assertEqual(([code for _, code, _ in entry], error), (codes, ''))
                self.assertRegex(words, '^TARGET %s$' % line)
                if 7 in codes:
                    self.assertIn((CBA_DATA, 7, der), entry)

    @unittest.skipUnless(hasattr(ssl, 'TLSVersion'), 'Python 3.7')
    def test_old_tls(self):
        """Servers of the past answer, too, if the library can speak with them at all."""
        context = certified_context(self.path('tls.pem'), tls1=True)

        def act(peer):
            with context.wrap_socket(peer, server_side=True) as inside:
                inside.recv(1)
        port = self.serve(act)
        events, _ = self.examine('banner', port, 'banner.wait=40,banner.probe=tls')
        self.assertIn((CBA_STR, 6, 'TLSv1'), events)

    def test_certificate_name(self):
        der = ssl.PEM_cert_to_DER_cert(TLS_PEM[TLS_PEM.index('-----BEGIN CERT'):])
        self.assertEqual(cscan.certificate_name(der), 'banner.example')
        draw = random.Random(SEED)
        for size in range(len(der)):
            cscan.certificate_name(der[:size])
            cscan.certificate_name(bytes(mutate(der, draw)))
        for strange in (b'\x30\xff', b'\x30\x84\xff\xff\xff\xff', b'0' * 5000, b'\x30\x80' * 99):
            self.assertIsInstance(cscan.certificate_name(strange), str)

    def test_tls_without_end(self):
        """An operation of TLS that never ends takes TLS_MAX octets, and no more."""
        def flood(peer):
            while True:
                peer.sendall(bytes(16384))

        def act():
            taken.append(len(sock.incoming.read()))
            raise ssl.SSLWantReadError
        taken = []
        with cscan.TimedSocket('127.0.0.1', self.serve(flood), 5000) as sock:
            sock.incoming, sock.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            with self.assertRaisesRegex(ConnectionError, 'without end'):
                sock.tls_call(math.inf, act)
        self.assertLessEqual(sum(taken), cscan.TLS_MAX + cscan.TLS_PIECE)

    def test_strange_errors(self):
        """What a user's module raises is counted under a text that harms no terminal."""
        console, sink = StubConsole(), KeepingSink()
        sink.finish = lambda thread: None

        def check(target, out, options):
            raise OSError('\x1b[2J\n' + options)
        each = cscan.find_module('print')._replace(name='strange', check=check)
        crew = cscan.Crew([each], {'strange': 'x'}, sink, console, 1, 9)
        crew.call(each, cscan.Target('127.0.0.1', 1, ''), cscan.Out(sink, 1))
        cscan.tell_end(console, crew, '')
        self.assert_line(console.notes[0], 'module strange: ', '[2J', 'x: 1 target')
        path = self.path('bad.py', b"raise ValueError('\\x1b[2J\\n')\n")
        self.assert_refused([repr(path), 'ValueError: ', '[2J'], cscan.load_modules, path)

    def test_tls_refused_here(self):
        """The local library is told once, by name; TLS_FAIL stands in the entry."""
        port = self.serve(*[self.play(RFB8, 12, b'\1\x12', 1)] * 2)
        console, sink = StubConsole(), KeepingSink()
        each = cscan.find_module('rfb')
        crew = cscan.Crew([each], cscan.module_options([each], ''), sink, console, 1, 9)
        sink.finish = lambda thread: None
        with patched(cscan, TLS_CIPHERS={True: 'NONSENSE', False: 'NONSENSE'}, TLS_CONTEXTS={}):
            for _ in range(2):
                crew.examine(cscan.Target('127.0.0.1', port, ''), cscan.Out(sink, 1))
        self.assertEqual(sink.events.count((CBA_BIT, 8, True)), 2)
        self.assertEqual(len(console.notes), 1)
        self.assertRegex(console.notes[0], '^warning: module rfb: .*SSL.* refuses ciphers NONSE')
        self.assertEqual(list(crew.failures.values()), [2])
        with patched(cscan, TLS_CIPHERS={False: 'NONSENSE'}, TLS_CONTEXTS={}):
            events, error = self.examine('banner', self.serve(self.play()),
                                         'banner.wait=1,banner.probe=tls')
        self.assertEqual(events[-1], (CBA_STR, 8, error))
        self.assertIn('NONSENSE', error)

    def test_tls_contexts(self):
        """Old servers may answer; without certificates there is no TLS 1.3."""
        for anonymous in (False, True):
            context = cscan.tls_context(anonymous)
            self.assertIs(cscan.tls_context(anonymous), context)
            self.assertTrue(context.options & cscan.OP_LEGACY_SERVER_CONNECT)
            if hasattr(ssl, 'TLSVersion'):
                self.assertEqual(context.maximum_version == ssl.TLSVersion.TLSv1_2, anonymous)

    def test_start_without_ssl(self):
        """A Python without TLS scans; ssl is loaded by who needs it only."""
        code = ('import sys; sys.modules["ssl"] = None; sys.path.insert(0, %r); import cscan\n'
                'try: cscan.tls_context(True)\nexcept cscan.Unable as e: print(e)' % HERE)
        words = subprocess.check_output([sys.executable, '-c', code]).decode()
        self.assertRegex(words, '^this Python has no TLS: ')

    def test_reset_at_the_end(self):
        """close() leaves no TIME_WAIT, with TLS and without."""
        context, ends = certified_context(self.path('tls.pem')), []

        def plain(peer, said=b'x'):
            try:
                peer.sendall(said)
                ends.append(peer.recv(1))
            except OSError as error:
                ends.append(error.errno)

        def secure(peer):
            inside = context.wrap_socket(peer, server_side=True)
            inside.sendall(b'x')
            with socket.socket(fileno=inside.detach()) as below:
                below.settimeout(20)
                plain(below, b'')
        port = self.serve(plain, secure)
        for tls in (False, True):
            with cscan.TimedSocket('127.0.0.1', port, 5000) as sock:
                if tls:
                    sock.start_tls()
                self.assertEqual(sock.read_exact(1), b'x')
            wait_until(lambda: len(ends) == 1 + tls)
        self.assertEqual(ends, [errno.ECONNRESET] * 2)

    def test_cookie(self):
        """Dropped: hosts that answer where nobody listens, ports that do not open again."""
        each = cscan.find_module('cookie')
        refused, silent = self.hosts.closed('127.7.0.1'), self.hosts.silent('127.7.0.1')
        scanned = self.hosts.open('127.7.0.1')
        rows = [(scanned, [refused[1]], True), (scanned, [silent[1]], True),
                (scanned, [scanned[1]], True),      # a port is no evidence against itself
                (scanned, [refused[1], silent[1], self.hosts.open('127.7.0.1')[1]], False),
                (refused, [silent[1]], False), (silent, [refused[1]], False)]
        for (host, port), unlikely, kept in rows:
            with self.subTest(port=port, unlikely=unlikely):
                options = cscan.module_options(
                    [each], 'cookie.timeout=60,cookie.verify_timeout=60,cookie.ports='
                    + ','.join(map(str, unlikely)))[each.name]
                target = cscan.Target(host, port, '127.0.0.1')
                self.assertEqual(each.check(target, None, options), kept)

    def test_cookie_is_not_ourselves(self):
        """A socket that met itself is no answer."""
        def bound(source):
            sock = socket.socket()
            sock.bind(refused)
            return sock
        with socket.socket() as free:
            free.bind(('127.7.0.1', 0))
            refused = free.getsockname()
        with patched(cscan, new_tcp_socket=bound):
            self.assertFalse(cscan.any_accepts(refused[0], [refused[1]], 1000, ''))

    def test_cookie_memory(self):
        """A host with many open ports is asked once; the memory is bounded."""
        each = cscan.find_module('checkcookie')
        trap = self.hosts.listener('127.7.0.2')
        options = cscan.module_options([each], 'cookie.timeout=60,cookie.ports=%d'
                                       % trap.getsockname()[1])[each.name]
        with patched(cscan, COOKIE_VERDICTS={}, COOKIE_MEMORY_MAX=3):
            target = cscan.Target('127.7.0.2', 9, '')
            self.assertTrue(cscan.answers_everything(target, options))
            trap.close()
            self.assertTrue(cscan.answers_everything(target, options))
            for last in range(3, 20):
                cscan.answers_everything(cscan.Target('127.7.0.%d' % last, 9, ''), options)
                self.assertLessEqual(len(cscan.COOKIE_VERDICTS), 3)
            self.assertFalse(cscan.answers_everything(target, options))

    def test_settings(self):
        """Options are checked before anything is sent."""
        for setting, words in (
                ('rfb.read_timeout=0', "rfb.read_timeout='0': a whole number from 1 to 3600000"),
                ('x11.conn_timeout=x', "'x': a whole number"),
                ('banner.size=32768', 'from 1 to 32767'),
                ('banner.probe=ssh', 'http, tls, https or none was expected'),
                ('probe=tls', "'probe=tls': module.option=value was expected"),
                ('cookie.ports=0', "'0': ports 1-65535"), ('cookie.ports=', 'ports 1-65535'),
                ('cookie.ports=1-9', 'ports 1-65535'),
                ('cookie.ports=' + ','.join('1' * 17), 'at most 16 ports')):
            with self.subTest(setting):
                self.assert_refused([words], cscan.module_options, [], setting)

    def test_codes(self):
        """Each code has a name, the same in the reader, and -h tells."""
        for each in cscan.MODULES.values():
            with self.subTest(each.name):
                self.assertEqual(each.codes, cba_reader.CODES.get(each.name, {}))
                for code, name in each.codes.items():
                    self.assertIn('%d=%s' % (code, name), cscan.modules_text())

    def test_command_line(self):
        """Text and CBA of a run; filters count what they drop."""
        rfb, trap = self.serve(*[self.play(RFB8, 12, b'\1\1')] * 2), self.hosts.open()[1]
        stdin = b'127.0.0.1:%d\n' % rfb
        status, out, err = run('cscan.py', '-x', '-mod', 'rfb,banner', '-mt', 1, stdin=stdin)
        self.assertEqual((status, out, err), (
            0, 'module: rfb\nvnc://127.0.0.1:%d\nbit set for code 6\n'
               '127.0.0.1:%d greeting RFB 003.008\n' % (rfb, rfb), ''))
        status, out, err = run('cscan.py', '-x', '-mod', 'cookie', '-mcfg',
                               'cookie.ports=%d' % trap, stdin=stdin)
        self.assertEqual((status, out, err), (
            0, '', 'cscan: warning: -mod checkcookie: filters only, nothing shows what they let '
                   'pass: add print\ncscan: module checkcookie: dropped 1 result\n'))


class TlsGroups(Case):
    """No server makes us calculate with groups of finite fields, but in rfb."""

    @staticmethod
    def hello(group=0x0104, session=b'', random=None, kind=2, before=b''):
        """A ServerHello of TLS 1.3 that asks for a group."""
        share = struct.pack('!HHH', 51, 2, group)
        more = before + b'\0\x2b\0\2\3\4' + share
        body = (b'\3\3' + (random or hashlib.sha256(b'HelloRetryRequest').digest())
                + bytes([len(session)]) + session + b'\x13\1\0' + struct.pack('!H', len(more)) + more)
        return bytes([kind]) + len(body).to_bytes(3, 'big') + body

    @staticmethod
    def record(data, kind=22):
        return struct.pack('!BHH', kind, 0x303, len(data)) + data

    def release(self, pieces):
        """What the library sees of these pieces, or what is raised."""
        sock = cscan.TimedSocket.__new__(cscan.TimedSocket)
        sock.held, seen = bytearray(), b''
        try:
            for piece in pieces:
                seen += sock.release(piece)
        except ConnectionError as error:
            return seen, str(error)
        return seen, ''

    def test_retry(self):
        """Wherever it is cut into records and segments, the library does not see it."""
        refusal = 'TLS: the server asks for a finite-field group, 0x0104'
        hello, alert = self.hello(session=b's' * 32), self.record(b'\1\x70', 21)
        change = self.record(b'\1', 20)
        for cut in range(1, len(hello)):
            records = [self.record(hello[:cut]), self.record(hello[cut:])]
            for pieces, seen in (([b''.join(records)], b''), (records, b''),
                                 ([records[0], change, records[1]], b''),
                                 ([alert[:3], alert[3:] + b''.join(records)], b''),
                                 ([alert] + records, alert), ([change] + records, change)):
                self.assertEqual(self.release(pieces), (seen, refusal), (cut, pieces))
        whole = self.record(hello)
        for cut in range(1, len(whole)):
            self.assertEqual(self.release([whole[:cut], whole[cut:]]), (b'', refusal), cut)
        self.assertEqual(self.release([bytes([each]) for each in alert + whole]), (alert, refusal))

    def test_others(self):
        """All else reaches the library, octet for octet."""
        rows = [[self.record(self.hello(0x001d))], [self.record(self.hello(random=b'r' * 32))],
                [self.record(self.hello(kind=1))], [self.record(self.hello()[:30] + b'x' * 90)],
                [b'HTTP/1.1 400 Bad\r\n'], [self.record(b'\2\x28', 21)], [b'\x15\3\3\0\2', b'\2\x28'],
                [self.record(self.hello(0x00ff)), b'more'], [self.record(b'\2\0\0\0')],
                [self.record(self.hello(0x0200)), self.record(self.hello())]]
        for pieces in rows:
            self.assertEqual(self.release(pieces), (b''.join(pieces), ''), pieces)
        self.assertEqual(self.release([self.record(self.hello()[:50]), b'\x16']), (b'', ''))
        for cut in range(len(self.hello())):        # no exception on anything cut
            cscan.retry_group(self.hello()[:cut])

    def test_ciphers(self):
        """With a certificate no suite has finite fields; without one, for rfb, they stay."""
        names = [each['name'] for each in cscan.tls_context(False).get_ciphers()]
        self.assertTrue(names)
        self.assertEqual([name for name in names if name.startswith(('DHE-', 'EDH-'))], [])
        names = [each['name'] for each in cscan.tls_context(True).get_ciphers()]
        self.assertTrue([name for name in names if name.startswith('ADH-')])

    def test_openssl(self):
        """A server of ffdhe8192 alone is reported as that, within little CPU."""
        if not shutil.which('openssl'):
            if REQUIRED:
                self.fail('LIVE=required: needs openssl')
            self.skipTest('needs openssl')
        key, port = self.path('key'), next(FREE_PORT)
        subprocess.check_call(['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-subj',
                               '/CN=x', '-keyout', key, '-out', self.path('cert')],
                              stderr=subprocess.DEVNULL)
        server = subprocess.Popen(
            ['openssl', 's_server', '-accept', '127.0.0.1:%d' % port, '-key', key, '-cert',
             self.path('cert'), '-groups', 'ffdhe8192', '-tls1_3', '-quiet'],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)

        def talk():
            with cscan.TimedSocket('127.0.0.1', port, 3000) as sock:
                sock.start_tls()

        def listens():
            with socket.socket() as sock:
                return sock.connect_ex(('127.0.0.1', port)) == 0
        wait_until(listens)
        begun = time.thread_time() if hasattr(time, 'thread_time') else 0
        with self.assertRaisesRegex(ConnectionError, 'asks for a finite-field group, 0x0104'):
            talk()
        if begun:
            self.assertLess(time.thread_time() - begun, 0.1)


class RealServers(Case):
    """rfb, x11 and banner against the servers that they are made for."""

    def setUp(self):
        super().setUp()
        self.hosts = Hosts(self)
        missing = [name for name in ('Xtigervnc', 'x11vnc', 'Xvfb') if not shutil.which(name)]
        if missing and REQUIRED:
            self.fail('LIVE=required: needs ' + ', '.join(missing))
        if missing:
            self.skipTest('needs ' + ', '.join(missing))

    def start(self, port, *command, **environment):
        """Start a server; ready once its port is open."""
        log = open(self.path('log.%d' % port), 'wb')
        self.addCleanup(log.close)
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env=dict(CLEAN, HOME=self.folder, **environment))
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)

        def listens():
            with socket.socket() as sock:
                return sock.connect_ex(('127.0.0.1', port)) == 0
        wait_until(lambda: listens() or process.poll() is not None)
        self.assertIsNone(process.poll(), read_text(log.name))

    def vnc(self, *options):
        """Xtigervnc of these options -> its port."""
        port, display = next(FREE_PORT), self.display()
        self.start(port, 'Xtigervnc', display, '-rfbport', str(port), '-nolisten', 'tcp',
                   '-BlacklistThreshold', '100000', *options)
        return port

    @staticmethod
    def display():
        """A display that nobody has."""
        return next(':%d' % number for number in map(lambda port: port % 20000, FREE_PORT)
                    if not os.path.exists('/tmp/.X%d-lock' % number))

    def x11(self, *options):
        """Xvfb of these options -> (its port, its display)."""
        display = self.display()
        port = 6000 + int(display[1:])
        self.start(port, 'Xvfb', display, '-listen', 'tcp', *options)
        return port, display

    def codes(self, module, port, *settings):
        """Codes in the entry that a run of the program writes, none without an entry."""
        path = self.path('%s.%d.cba' % (module, port))
        status, out, err = run('cscan.py', '-x', '-mod', module, '-o', path,
                               stdin=b'127.0.0.1:%d\n' % port)
        self.assertEqual((status, out), (0, ''), err)
        return [sorted(set(entry.dict) - {0}) for entry in cba_entries(path, module)], err

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_tigervnc(self):
        secret = self.path('secret', b'password')
        for options, codes in ((['None'], [[6]]), (['TLSNone'], [[9]]),
                               (['VncAuth', '-rfbauth', secret], []),
                               (['None,TLSNone'], [[6, 9]])):
            with self.subTest(options=options):
                self.assertEqual(self.codes('rfb', self.vnc('-SecurityTypes', *options)),
                                 (codes, ''))

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_anonymous_tls(self):
        """Type 18, as vino and x11vnc speak it."""
        _, display = self.x11('-ac')
        settings = self.path('openssl.cnf', b"""
openssl_conf = main
[main]
ssl_conf = modules
[modules]
system_default = all
[all]
CipherString = DEFAULT:@SECLEVEL=0
""")
        port = next(FREE_PORT)
        self.start(port, 'x11vnc', '-display', display, '-rfbport', str(port), '-ssl', 'TMP',
                   '-vencrypt', 'never', '-anontls', 'force', '-forever', '-shared', '-nopw',
                   OPENSSL_CONF=settings)
        self.assertEqual(self.codes('rfb', port), ([[6, 7]], ''))

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_xvfb(self):
        name = b'MIT-MAGIC-COOKIE-1'            # Xau(3): family, address, display, name, key
        keys = self.path('keys', b'\xff\xff' b'\0\0' b'\0\0' b'\0\x12' + name
                         + b'\0\x10' + bytes(range(16)))
        for options, codes in ((['-ac'], [[4]]), (['-auth', keys], [])):
            with self.subTest(options=options):
                self.assertEqual(self.codes('x11', self.x11(*options)[0]), (codes, ''))

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_banner(self):
        port = self.vnc('-SecurityTypes', 'None')
        _, out, _ = run('cscan.py', '-x', '-mod', 'banner', stdin=b'127.0.0.1:%d\n' % port)
        self.assertEqual(out, '127.0.0.1:%d greeting RFB 003.008\n' % port)


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

    @contextlib.contextmanager
    def far_rule(self, rule):
        """An iptables rule of the far end."""
        words = ['INPUT', '-i', 'v1', '-p', 'tcp', '--syn'] + rule.split()
        self.inside(self.far, 'iptables', '-w', '-A', *words)
        try:
            yield
        finally:
            self.inside(self.far, 'iptables', '-w', '-D', *words)

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_adaptive_rate(self):
        """-r auto finds what a slow scan finds; behind a policer it settles close to its rate."""
        common = ['-f', '10.64.0.0/18', '-p', '1,2', '--once', '-q', '-t', '300']
        for name, rule in (
                ('1 %', '-m statistic --mode random --probability 0.01 -j DROP'),
                ('5 %', '-m statistic --mode random --probability 0.05 -j DROP'),
                ('police', '-m hashlimit --hashlimit-above 5000/sec --hashlimit-burst 100 '
                           '--hashlimit-name cscan -j DROP'), ('none', '-j ACCEPT')):
            with self.subTest(name), self.far_rule(rule):
                ends = []
                for rate in ('auto', '2500'):
                    path = self.path('status %s %s' % (name, rate))
                    status, out, err = self.scan(*common, '-r', rate, '--status', path)
                    self.assertEqual(status, 0, err)
                    with open(path) as file:
                        records = [json.loads(line) for line in file]
                    self.assertEqual(records[-1]['state'], 'done')
                    ends.append(records[-1]['answers']['refused'])
                    if rate == 'auto' and name == 'police':
                        rates = [each['rate'] for record in records
                                 for each in record.get('decisions', [])]
                        self.assertGreater(rates[-1], 3500)
                        self.assertLess(rates[-1], 6500)
                        self.assertTrue(records[-1]['sent_again'])
                self.assertGreater(ends[0], 0.99 * ends[1])

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_excluded_meanwhile(self):
        """SIGHUP: no SYN goes to a range of the list's new lines a second later, also repeats."""
        syns = self.sniff()
        for workers in '1', '2':
            before = len(syns())
            path = self.path('never %s' % workers, b'10.64.0.0/28\n')
            process = self.start('-f', '10.64.0.0/20,10.128.0.0/20', '-xf', path, '-p', '7',
                                 '--once', '-r', '1500', '-t', '2500', '-w', workers,
                                 '-o', self.path('out %s.cba' % workers))
            wait_until(lambda: len(syns()) > before + 1000)
            with open(path, 'a') as file:
                file.write('10.64.8.0/21\n10.128.8.0/21\n')
            # the workers are children of the one that the signal is for
            os.kill(process.pid, signal.SIGHUP)
            came = time.time()
            wait_until(lambda: syns()[-1][0] > came + 2.5 or process.poll() is not None, 15)
            process.terminate()
            err = process.communicate()[1].decode()
            self.assertIn('SIGHUP: exclude list read again: 4096 addresses more excluded', err)
            self.assertRegex(err, r' [0-9]+ excluded meanwhile')
            new = [syn for syn in syns()[before:] if int(syn[1].split('.')[2]) & 8]
            self.assertTrue([syn for syn in new if syn[0] < came])
            self.assertEqual([syn for syn in new if syn[0] > came + 1], [])

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

    def test_icmp_inside_connect(self):
        """ICMP that comes while connect() holds the socket is an answer; it is no other's answer."""
        self.server('10.64.0.7:80', '10.64.0.8:80')
        self.inside(self.far, 'sysctl', '-qw', 'net.ipv4.icmp_ratelimit=0')     # 1/s for a peer
        kinds = (('icmp-admin-prohibited', 'host unreachable'),
                 ('icmp-net-unreachable', 'net unreachable'),
                 ('icmp-port-unreachable', 'refused'),
                 ('icmp-proto-unreachable', 'protocol unreachable'))
        for index, (kind, name) in enumerate(kinds):
            options = [[], ['--retries', 1], ['-r', 'auto'], ['-mf', self.path('metrics')]][index]
            with self.subTest(kind=kind, options=options), \
                    self.far_rule('-d 10.64.0.0/26 --dport 7 -j REJECT --reject-with ' + kind), \
                    self.far_rule('-d 10.64.0.0/26 --dport 9 -j DROP'):
                # few sockets: silent, open and refusing targets use those that had an error
                status, out, err = self.scan('-f', '10.64.0.0/26', '-p', '7,9,11,80', '--once',
                                             '-t', 200, '-m' if index != 2 else '-mt', 64, *options)
                self.assertEqual((status, sorted(out.split())),
                                 (0, ['10.64.0.7:80', '10.64.0.8:80']))
                refused = 126 + 64 * (name == 'refused')
                for words in ('2 open', '%d refused' % refused, name, '64 without answer'):
                    self.assertIn(words, err)
        self.assertEqual(metrics_totals(self.read('metrics')), {
            'sent': 256, 'open': 2, 'closed': 190, 'timeouts': 64})

    def test_icmp_of_own_rules(self):
        """The same of OUTPUT rules; the kernel sends no more than 1,000 of these a second."""
        rule = '-p tcp --dport 7 -j REJECT --reject-with icmp-host-prohibited'.split()
        self.inside(self.near, 'iptables', '-w', '-A', 'OUTPUT', *rule)
        try:
            status, _, err = self.scan('-f', '10.64.0.0/25', '-p', '7', '--once', '-r', 200)
        finally:
            self.inside(self.near, 'iptables', '-w', '-D', 'OUTPUT', *rule)
        self.assertEqual(status, 0)
        self.assertIn('128 host unreachable, 0 without answer', err)

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_metrics(self):
        """-mf: every kind of answer, retries and silence, none lost and none twice."""
        self.server('10.64.0.7:80', '10.64.1.9:80')
        for options in ([], ['--retries', 1], ['-b', 0], ['-r', 5000]):
            with self.subTest(options=options):
                path = self.path('metrics')
                status, _, err = self.scan(
                    '-f', '10.64.0.0/23,10.1.0.0/28,10.2.0.0/28,192.0.2.0/28,10.128.0.0/24',
                    '--once', '-ct', 0, '-t', 200, '-mf', path, *options)
                self.assertEqual(status, 0)
                retries = 256 if '--retries' in options else 0
                self.assertIn('2 open, 510 refused', err)
                self.assertEqual(metrics_totals(self.read('metrics')), {
                    'sent': 816 + retries, 'open': 2, 'closed': 558, 'timeouts': 256 + retries})

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
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

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_kernel_repeats_count(self):
        """-t 1500: the kernel sends each SYN twice, and the rate holds for all of them."""
        read = self.sniff()
        self.scan('-q', '-f', '10.129.0.0/16', '-r', 60, '-t', 1500, '-n', 45)
        syns = read()
        self.assertLessEqual(self.most_in_a_second([when for when, _, _ in syns]), 60 + 3 + 1)
        counts = collections.Counter(host for _, host, _ in syns)
        self.assertEqual(set(counts.values()), {2})

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
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

    def find_source(self, ranges):
        """What a scan of these ranges would be bound to in the near namespace."""
        with entered(self.near):
            return cscan.SourceAddress(cscan.load_ranges(ranges, '-f')).find()

    @contextlib.contextmanager
    def near_ip(self, *lines):
        """ip(8) add ... in the near namespace; afterwards the same with del."""
        try:
            for line in lines:
                self.inside(self.near, 'ip', *(line % 'add').split())
            yield
        finally:
            for line in lines[::-1]:
                subprocess.call(['ip', '-n', self.near] + (line % 'del').split())

    def test_source_address(self):
        """Found if routes make it one for all targets; else, and by policy routes, none."""
        other, far = '10.64.0.0/24', '10.64.0.0/10'
        for lines, ranges, expected in (
                ((), far, '10.77.0.1'), ((), far + ',10.128.0.0/9,10.77.0.0/24', '10.77.0.1'),
                ((), '127.0.0.0/8', '127.0.0.1'), ((), far + ',127.0.0.1', ''),
                ((), '10.1.0.0/16', ''), ((), far + ',10.1.0.0/16,10.2.0.0/16', '10.77.0.1'),
                ((), '10.77.0.1', '10.77.0.1'), ((), '10.77.0.1,10.77.0.9', ''),
                ((), '192.0.2.1', ''),
                (['route %s 10.64.1.0/24 via 10.77.0.2 src 10.77.0.9'], far, ''),
                (['route %s 10.64.1.0/24 via 10.77.0.2 src 10.77.0.9'], other, '10.77.0.1'),
                (['route %s 10.64.1.0/24 via 10.77.0.2 src 10.77.0.9'], '10.64.1.7', '10.77.0.9'),
                (['route %s 10.64.0.0/24 nexthop via 10.77.0.2 nexthop via 10.77.0.3'], far, ''),
                (['route %s 10.64.0.0/24 via 10.77.0.2 tos 0x10'], far, ''),
                (['route %s throw 10.64.0.0/24'], far, ''),
                (['route %s 10.99.0.0/24 via 10.77.0.2 table 77'], far, '')):
            with self.subTest(lines=lines, ranges=ranges), \
                    self.near_ip('addr %s 10.77.0.9/32 dev v0', *lines):
                self.assertEqual(self.find_source(ranges), expected)
        default = 'route %s default via 10.77.0.2'
        for way, metric, expected in (('2', 7, '10.77.0.1'), ('3', 0, '')):
            with self.subTest(metric=metric), self.near_ip(default):
                words = 'via 10.77.0.%s metric %d' % (way, metric)
                self.inside(self.near, 'ip', 'route', 'append', 'default', *words.split())
                self.assertEqual(self.find_source('20.0.0.0'), expected)
                self.inside(self.near, 'ip', 'route', 'del', 'default', *words.split())

    def test_source_address_where_any_can_be_bound(self):
        self.inside(self.near, 'sysctl', '-qw', 'net.ipv4.ip_nonlocal_bind=1')
        try:
            with entered(self.near):
                self.assertEqual([cscan.has_address(each) for each in ('10.77.0.1', '10.77.0.9')],
                                 [True, False])
        finally:
            self.inside(self.near, 'sysctl', '-qw', 'net.ipv4.ip_nonlocal_bind=0')

    def test_source_address_changes(self):
        """Another address during a scan: it goes on from there, and nothing is lost."""
        for options in ([], ['-w', 2]):
            with self.subTest(options=options), self.near_ip('addr %s 10.77.0.9/32 dev v0'):
                process = self.start('-f', '10.64.0.0/21,10.128.0.0/23', '--once', '-r', 2500,
                                     '-t', 400, '-st', 1000, *options)
                err = process.stderr.readline() + process.stderr.readline()     # 1,000 are sent
                for route in '10.64.0.0/10', '10.128.0.0/9':
                    self.inside(self.near, 'ip', 'route', 'replace', *route.split(), 'via',
                                '10.77.0.2', 'src', '10.77.0.9')
                out, rest = process.communicate(timeout=60)
                for route in '10.64.0.0/10', '10.128.0.0/9':
                    self.inside(self.near, 'ip', 'route', 'replace', route, 'via', '10.77.0.2')
                err = (err + rest).decode()
                self.assertEqual((process.returncode, out), (0, b''), err)
                self.assertIn('the source address is 10.77.0.9 now', err)
                self.assertRegex(err, '0 open, 2048 refused, 512 without answer')

    def test_source_address_goes(self):
        """The address is taken away: what cannot be sent by it waits, and goes by the other."""
        with self.near_ip('addr %s 10.77.0.9/32 dev v0'):
            process = self.start('-f', '10.64.0.0/21', '--once', '-r', 2500, '-t', 400, '-st',
                                 1000)
            err = process.stderr.readline() + process.stderr.readline()
            for verb in 'del', 'add':
                self.inside(self.near, 'ip', 'addr', verb, '10.77.0.1/24', 'dev', 'v0')
                if verb == 'del':
                    out, rest = process.communicate(timeout=60)
        self.assertEqual((process.returncode, out), (0, b''))
        self.assertRegex((err + rest).decode(), '(?s)address is 10.77.0.9 now.* 2048 refused, 0 wi')

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
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
        self.assertRegex(err, '[0-9]+ sent again')
        self.assertEqual(len({host for _, host, _ in read()}), 256 + 1024)


# ==== Responder: tables ===============================================================

TCP, UDP = masscanned.TCP, masscanned.UDP
NOW = 1795225601.25                         # Sat, 21 Nov 2026 01:46:41 GMT
BULK = 20 if TEST_ALL else 1                # the random tests are so many times as long


def unhex(*fields):
    return bytes.fromhex(''.join(fields))


def maybe_unhex(text):
    return None if text is None else unhex(text)


# MAC text, octets; and what is none
MACS = [('52:1c:4e:c2:a4:1f', '521c4ec2a41f'), ('2:0:0:0:0:1', '020000000001'),
        ('AA:bB:0c:D:0:fE', 'aabb0c0d00fe'), ('0:0:0:0:0:0', '000000000000')]
NO_MACS = ['', '1', '2:0:0:0:0', '2:0:0:0:0:0:0', '2-0-0-0-0-0', '100:0:0:0:0:0', '+2:0:0:0:0:0',
           '2:0:0:0:0:g', ' 2:0:0:0:0:0', '2:0:0:0:0:0\n', '2:0:0::0:0', '0x2:0:0:0:0:0',
           '1:0:0:0:0:1', 'ff:ff:ff:ff:ff:ff', '33:33:0:0:0:1', '\u0662:0:0:0:0:0']

# Address text: version, first and last address
OWN_LISTS = [
    ('192.0.2.1', 4, '192.0.2.1', '192.0.2.1'),
    ('192.0.2.0/24', 4, '192.0.2.0', '192.0.2.255'),
    ('192.0.2.77/24', 4, '192.0.2.0', '192.0.2.255'),           # host bits are cleared
    ('192.0.2.1/32', 4, '192.0.2.1', '192.0.2.1'),
    ('0.0.0.0/0', 4, '0.0.0.0', '255.255.255.255'),
    ('192.0.2.1-192.0.2.9', 4, '192.0.2.1', '192.0.2.9'),
    ('192.0.2.1 - 192.0.2.9', 4, '192.0.2.1', '192.0.2.9'),
    ('192.0.2.5-192.0.2.5', 4, '192.0.2.5', '192.0.2.5'),
    ('::1', 6, '::1', '::1'), ('2001:DB8::/64', 6, '2001:db8::', '2001:db8::ffff:ffff:ffff:ffff'),
    ('2001:db8::7-2001:db8::1:0', 6, '2001:db8::7', '2001:db8::1:0'),
    ('::ffff:192.0.2.1', 6, '::ffff:c000:201', '::ffff:c000:201'),      # stays IPv6
]
NO_OWN_LISTS = [                            # text, what the message says
    ('192.0.2.256', 'not an address'), ('192.0.2', 'not an address'), ('x', 'not an address'),
    ('192.0.2.1:80', 'not an address'), ('[::1]', 'not an address'), ('-', 'not an address'),
    ('192.0.2.1-', 'not an address'), ('-192.0.2.1', 'not an address'),
    ('192.0.2.0/33', 'not an address'), ('::/129', 'not an address'),
    ('192.0.2.1-5', 'not an address'), ('192.0.2.1-192.0.2.9-192.0.2.10', 'not an address'),
    ('192.0.2.0/24-192.0.2.9', 'not an address'), ('192.0.2.1 192.0.2.2', 'not an address'),
    ('\x1b[2J', 'not an address'), ('', 'not an address'),
    ('192.0.2.9-192.0.2.1', 'below the first'), ('::2-::1', 'below the first'),
    ('192.0.2.1-::1', 'the other IPv6'), ('::1-192.0.2.1', 'the other IPv6'),
]
# Files: octets, addresses
OWN_FILES = [
    (b'', ''), (b'# a\n\n   \n\t\n#b', ''), (b'192.0.2.1', '192.0.2.1'),
    (b'192.0.2.1\r\n\r\n192.0.2.2 # b\r\n', '192.0.2.1 192.0.2.2'),
    (b'\xef\xbb\xbf192.0.2.1\n::1\n', '192.0.2.1 ::1'),
    (b'2001:db8::1\tfoo\tbar\n', '2001:db8::1'), (b' \t192.0.2.1 \t x y\n', '192.0.2.1'),
    (b'# caf\xe9\n192.0.2.1\n', '192.0.2.1'), (b'192.0.2.1\n192.0.2.1\n', '192.0.2.1 192.0.2.1'),
]
NO_OWN_FILES = [                            # octets, line and what the message says
    (b'192.0.2.1\n\n192.0.2.x # c\n', ":3: '192.0.2.x'"), (b'x\n', ":1: 'x'"),
    (b'::1\r\n192.0.2.9-192.0.2.1\r\n', ':2: '), (b'192.0.2.1 192.0.2.2\n', ':1: '),
    (b'192.0.2.1\n\xff\xfe\n', ':2: '), (b'192.0.2.1,192.0.2.2\n', ':1: '),
]

# Internet checksums: octets, sum to begin with, checksum; 0 is written as 0xffff
SUMS = [
    ('0001 f203 f4f5 f6f7', 0, 0x220d),                                 # RFC 1071 s3
    ('', 0, 0xffff), ('00', 0, 0xffff), ('ffff', 0, 0), ('ffff ffff', 0, 0),
    ('ff', 0, 0x00ff), ('0100 02', 0, 0xfcff), ('', 0x1234, 0xedcb), ('0001', 0xffff, 0xfffe),
    ('4500 0073 0000 4000 4011 0000 c0a8 0001 c0a8 00c7', 0, 0xb861),   # Wikipedia
    ('0001', 0x123450001, 0xdcb7),                                      # a sum of any size
]

# TCP options, MSS; None: the default
MSS_OPTIONS = [
    ('', None), ('02', None), ('0204 05', None), ('0204 05b4', 1460), ('0204 0000', 0),
    ('0204 ffff', 65535), ('01 0204 05b4', 1460), ('0101 0204 0218', 536),
    ('00 0204 05b4', None), ('00 01 0204 05b4', None), ('00 00 0204 05b4', None),
    ('0402 080a 0000000100000000 01 0303 07 0204 05b4', 1460),
    ('0303 07 0204 0218 00', 536), ('0300 0204 05b4 0000', None), ('03ff 0204 05b4', None),
    ('01 01 01 01', None), ('fe04 f989 0204 0400', 1024),
]

# IPv6 payload: next header, octets; what it comes to: next header, octets or why not
HOP, ROUTE, DEST = '11 00 0104 00000000', '11 00 0000 00000000', '3c 00 0104 00000000'
EXTENSION_CHAINS = [
    (17, 'aabb', (17, 'aabb')), (59, '', (59, '')), (0, HOP + 'aabb', (17, 'aabb')),
    (43, ROUTE + 'aabb', (17, 'aabb')), (60, HOP + 'aabb', (17, 'aabb')),
    (0, '3c 00 0104 00000000' + '2b 00 0104 00000000' + ROUTE + 'aabb', (17, 'aabb')),
    (44, '3a 00 0000 12345678' + 'aabb', (58, 'aabb')),                 # atomic: RFC 6946
    (44, '3a 07 0000 12345678' + 'aabb', (58, 'aabb')),
    (44, '3a 00 0006 12345678' + 'aabb', (58, 'aabb')),                 # reserved bits
    (44, '3a 00 0001 12345678' + 'aabb', 'ipv6 fragment'),
    (44, '3a 00 0008 12345678' + 'aabb', 'ipv6 fragment'),
    (44, '3a 00 fff8 12345678' + 'aabb', 'ipv6 fragment'),
    (60, '11 01 0104 00000000' + '00' * 8 + 'aabb', (17, 'aabb')),
    (60, '11 01 0104 00000000' + '00' * 7, 'ipv6 extension'),
    (60, '11 ff 0104 00000000' + '00' * 8, 'ipv6 extension'),
    (0, '11 00 0104 000000', 'ipv6 extension'), (44, '3a 00 0000 123456', 'ipv6 extension'),
    (60, '', 'ipv6 extension'), (60, '00 00 0104 00000000' + HOP, 'ipv6 extension'),
    (0, '00 00 0104 00000000' + HOP, 'ipv6 extension'),                 # only the first may be
    (43, '11 00 0001 00000000' + 'aabb', 'ipv6 extension'),             # segments left
    (60, DEST * 6 + HOP + 'aa', (17, 'aa')), (60, DEST * 8 + HOP + 'aa', 'ipv6 extension'),
    (60, DEST * 200, 'ipv6 extension'),
]

# Options of a neighbour solicitation: octets, types
ND_OPTIONS = [
    ('', set()), ('0101 020000000001', {1}), ('0e01 000102030405', {14}),
    ('0101 020000000001 0e02' + '00' * 14, {1, 14}), ('01', None), ('0100 020000000001', None),
    ('0102 020000000001', None), ('0101 0200000000', None), ('0101 020000000001 01', None),
    ('0101 020000000001 0500', None), ('00' * 8, None),
]

# ---- requests and the answers due to them --------------------------------------------
#
# (name, transport, request, answer, source)
#   name    the protocol, then what; '@PORT' sets our port, the usual one else; '/6': over IPv6
#   answer  octets; None: silence; (port of ours it comes from, octets)
# Client 192.0.0.0:40000 or [2001:41d0::1234:5678]:40000, we 192.0.0.1 or 2001:41d0::ab32:bdb8;
# the time is NOW, random octets are all 0x11.

OWN6 = '200141d0000000000000 0000ab32bdb8'
CLIENT6 = '200141d0000000000000 000012345678'
BY_HAND = 'by hand, '


def framed(octets):
    return octets if octets is None else struct.pack('!H', len(octets)) + octets


def marked(octets):
    return octets if octets is None else struct.pack('!I', 0x80000000 | len(octets)) + octets


WWW = '03777777 076578616d706c65 03636f6d 00'           # www.example.com
A_IN, AAAA_IN, ANY_IN, TXT_CH, TXT_IN = '00010001', '001c0001', '00ff0001', '00100003', '00100001'
ONE = '0001000000000000'
ONE_OPT = '0001000000000001'
RR_A = '0001 0001 0000a8c0 0004 c0000001'
RR_AAAA = '001c 0001 0000a8c0 0010' + OWN6
RR_HINFO = '000d 0001 0000a8c0 0009 07 52464338343832 00'
OPT = '00 0029 1000 00 00 8000 0000'
OPT_ANSWER = '00 0029 04d0 00 00 8000 0000'
LONG = ''.join('3f' + '61' * 63 for _ in range(3)) + '00'     # 193 octets

# (name, request, answer, source): over UDP as it stands and over TCP with lengths
DNS = [
    ('a', '1234 0100' + ONE + WWW + A_IN,
     '1234 8500 0001 0001 0000 0000' + WWW + A_IN + 'c00c' + RR_A,
     'original s24; name compressed'),
    ('no RD', '1234 0000' + ONE + WWW + A_IN,
     '1234 8400 0001 0001 0000 0000' + WWW + A_IN + 'c00c' + RR_A, 'RFC 1035 s4.1.1'),
    ('root', '1234 0100' + ONE + '00' + A_IN,
     '1234 8500 0001 0001 0000 0000 00' + A_IN + '00' + RR_A, 'original s18.2'),
    ('a /6', '1234 0100' + ONE + WWW + A_IN,
     '1234 8500 0001 0000 0000 0000' + WWW + A_IN, 'RFC 2308 s2.2'),
    ('aaaa /6', '1234 0100' + ONE + WWW + AAAA_IN,
     '1234 8500 0001 0001 0000 0000' + WWW + AAAA_IN + 'c00c' + RR_AAAA, 'RFC 3596 s2'),
    ('aaaa', '1234 0100' + ONE + WWW + AAAA_IN,
     '1234 8500 0001 0000 0000 0000' + WWW + AAAA_IN, 'RFC 2308 s2.2'),
    ('any', '1234 0100' + ONE + WWW + ANY_IN,
     '1234 8500 0001 0001 0000 0000' + WWW + ANY_IN + 'c00c' + RR_HINFO, 'RFC 8482 s4.2'),
    ('version.bind', '0006 0100' + ONE + '0776657273696f6e 0462696e64 00' + TXT_CH,
     '0006 8500 0001 0000 0000 0000 0776657273696f6e 0462696e64 00' + TXT_CH,
     'nmap DNSVersionBindReq'),
    ('txt', '1234 0100' + ONE + WWW + TXT_IN, '1234 8500 0001 0000 0000 0000' + WWW + TXT_IN,
     'RFC 2308 s2.2'),
    ('class any', '1234 0100' + ONE + WWW + '0001 00ff',
     '1234 8500 0001 0000 0000 0000' + WWW + '0001 00ff', BY_HAND + 'RFC 1035 s3.2.5'),
    ('edns', '1234 0120' + ONE_OPT + WWW + A_IN + OPT,
     '1234 8500 0001 0001 0000 0001' + WWW + A_IN + 'c00c' + RR_A + OPT_ANSWER, 'RFC 6891 s6.1'),
    ('edns cookie', '1234 0120' + ONE_OPT + WWW + A_IN
     + '00 0029 04d0 00 00 0000 000c 000a0008 0123456789abcdef',
     '1234 8500 0001 0001 0000 0001' + WWW + A_IN + 'c00c' + RR_A + '00 0029 04d0 00 00 0000 0000',
     'dig 9.18'),
    ('badvers', '1234 0100' + ONE_OPT + WWW + A_IN + '00 0029 1000 00 01 0000 0000',
     '1234 8100 0001 0000 0000 0001' + WWW + A_IN + '00 0029 04d0 01 00 0000 0000',
     'RFC 6891 s6.1.3'),
    ('two opt', '1234 0100 0001000000000002' + WWW + A_IN + OPT + OPT,
     '1234 8101 0000 0000 0000 0000', 'RFC 6891 s6.1.1'),
    ('opt with name', '1234 0100' + ONE_OPT + WWW + A_IN + '0161' + OPT,
     '1234 8101 0000 0000 0000 0000', 'RFC 6891 s6.1.2'),
    ('opt in authority', '1234 0100 0001000000010000' + WWW + A_IN + OPT,
     '1234 8500 0001 0001 0000 0000' + WWW + A_IN + 'c00c' + RR_A, 'RFC 6891 s6.1.1'),
    ('notify', '1234 2400' + ONE + WWW + '00060001', '1234 a004 0000 0000 0000 0000',
     'RFC 1996 s4.7'),
    ('opcode 2, all flags', '1234 17ff' + ONE + WWW + A_IN, '1234 9104 0000 0000 0000 0000',
     'original s24'),
    ('status @53', '0000 1000 0000 0000 0000 0000', '0000 9004 0000 0000 0000 0000',
     'nmap DNSStatusRequest'),
    ('no question @53', '1234 0000 0000 0000 0000 0000', '1234 8001 0000 0000 0000 0000', BY_HAND
     + 'RFC 1035 s4.1.2'),
    ('no question @9999', '1234 0000 0000 0000 0000 0000', None, BY_HAND + 'spec: one question'),
    ('answer', '1234 8500' + ONE + WWW + A_IN, None, 'RFC 1035 s4.1.1: QR'),
    ('answer @9999', '1234 8500' + ONE + WWW + A_IN, None, 'RFC 1035 s4.1.1: QR'),
    ('off port @9999', '1234 0100' + ONE + WWW + A_IN,
     '1234 8500 0001 0001 0000 0000' + WWW + A_IN + 'c00c' + RR_A, 'original s13'),
    ('loop', '1234 0100' + ONE + '0161 c00c' + A_IN, '1234 8101 0000 0000 0000 0000',
     'RFC 1035 s4.1.4'),
    ('loop @9999', '1234 0100' + ONE + 'c00c' + A_IN + '00', None, 'RFC 1035 s4.1.4'),
    ('pointer into header', '1234 0100' + ONE + '0161 c000' + A_IN,
     '1234 8101 0000 0000 0000 0000', 'RFC 1035 s4.1.4'),
    ('label type 01', '1234 0100' + ONE + '4161 00' + A_IN, '1234 8101 0000 0000 0000 0000',
     'RFC 6891 s5'),
    ('name of 257', '1234 0100' + ONE + LONG[:-2] + '3e' + '62' * 62 + '00' + A_IN,
     '1234 8101 0000 0000 0000 0000', 'RFC 1035 s2.3.4'),
    ('name of 255', '1234 0100' + ONE + LONG[:-2] + '3d' + '62' * 61 + '00' + A_IN,
     '1234 8500 0001 0001 0000 0000' + LONG[:-2] + '3d' + '62' * 61 + '00' + A_IN + 'c00c' + RR_A,
     'RFC 1035 s2.3.4'),
    ('cut name @53', '1234 0100' + ONE + '0161 0562 636465', '1234 8101 0000 0000 0000 0000',
     BY_HAND + 'port of DNS'),
    ('cut record @53', '1234 0100' + ONE_OPT + WWW + A_IN + OPT[:-2],
     '1234 8101 0000 0000 0000 0000', BY_HAND + 'RFC 1035 s4.1.3'),
    ('cut rdata @53', '1234 0100' + ONE_OPT + WWW + A_IN + OPT[:-4] + '0001',
     '1234 8101 0000 0000 0000 0000', BY_HAND + 'RFC 1035 s4.1.3'),
    ('more records than fit @9999', '1234 0100 0001 0009 0000 0000' + WWW + A_IN, None, BY_HAND
     + 'not plainly DNS'),
    ('more records than fit @53', '1234 0100 0001 0009 0000 0000' + WWW + A_IN,
     '1234 8101 0000 0000 0000 0000', BY_HAND + 'RFC 1035 s4.1.1'),
    ('three questions @53', '1234 0100 0003 0000 0000 0000' + WWW + A_IN + '0161 c010' + TXT_IN
     + 'c010' + A_IN,
     '1234 8500 0003 0002 0000 0000' + WWW + A_IN + '0161 c010' + TXT_IN + 'c010' + A_IN
     + 'c00c' + RR_A + 'c029' + RR_A, 'original s18.2, RFC 1035 s4.1.4'),
    ('pointer forward @53', '1234 0100 0002 0000 0000 0000 0161 c013' + A_IN + '0162 00' + A_IN,
     '1234 8101 0000 0000 0000 0000', 'RFC 1035 s4.1.4: prior'),
    ('65 questions @53', '1234 0100 0041 0000 0000 0000' + ('00' + A_IN) * 65,
     '1234 8101 0000 0000 0000 0000', BY_HAND + 'bound'),
    ('mdns QU @5353', '0000 0000' + ONE + '0161 056c6f63616c 00 0001 8001',
     '0000 8400 0001 0001 0000 0000 0161 056c6f63616c 00 0001 8001 c00c' + RR_A,
     'RFC 6762 s5.4, s6.7'),
    ('top bit of class @53', '0000 0000' + ONE + '0161 056c6f63616c 00 0001 8001',
     '0000 8400 0001 0000 0000 0000 0161 056c6f63616c 00 0001 8001', 'RFC 6762 s5.4'),
    ('known answer @5353',
     '0000 0000 0001 0001 0000 0000 0161 00 000c0001 c00c 000c 0001 00000078 0004 0162c00c',
     '0000 8400 0001 0000 0000 0000 0161 00 000c0001', 'RFC 6762 s7.1'),
    ('trailing octets', '1234 0100' + ONE + WWW + A_IN + 'ffff',
     '1234 8500 0001 0001 0000 0000' + WWW + A_IN + 'c00c' + RR_A, 'original s18.1'),
]
TEN = '1234 0100 000a 0000 0000 0000' + ('0161' * 20 + '00' + A_IN) * 10
TEN_OPT = '1234 0100 000a 0000 0000 0001' + ('0161' * 20 + '00' + A_IN) * 10 + OPT
FOUR = '1234 0100 0004 0000 0000 0000' + (LONG + A_IN) * 4
TEN_FOUND = ''.join('%04x' % (0xc00c + 45 * i) + RR_A for i in range(10))
SIX = '0161' * 20 + '00' + A_IN

DNS_VECTORS = [('dns ' + row[0], UDP, unhex(row[1]), maybe_unhex(row[2]), row[3]) for row in DNS]
DNS_VECTORS += [('dns-tcp ' + row[0], TCP, framed(unhex(row[1])), framed(maybe_unhex(row[2])),
                 row[3] + '; RFC 1035 s4.2.2') for row in DNS]
DNS_VECTORS += [
    ('dns cut to the question', UDP, unhex(TEN),
     unhex('1234 8700 000a 0000 0000 0000' + SIX * 10), 'RFC 2181 s9'),
    ('dns room by edns', UDP, unhex(TEN_OPT),
     unhex('1234 8500 000a 000a 0000 0001' + SIX * 10 + TEN_FOUND + OPT_ANSWER),
     'RFC 6891 s6.2.3'),
    ('dns cut to the header', UDP, unhex(FOUR), unhex('1234 8700 0000 0000 0000 0000'),
     'RFC 2181 s9'),
    ('dns-tcp never cut', TCP, framed(unhex(TEN)),
     framed(unhex('1234 8500 000a 000a 0000 0000' + SIX * 10 + TEN_FOUND)), 'RFC 7766 s5'),
    ('dns opt below 512', UDP, unhex('1234 0100 000a 0000 0000 0001' + SIX * 10
                                       + '00 0029 0000 00 00 0000 0000'),
     unhex('1234 8700 000a 0000 0000 0001' + SIX * 10 + '00 0029 04d0 00 00 0000 0000'),
     'RFC 6891 s6.2.3'),
    ('dns two questions @9999', UDP, unhex('1234 0100 0002 0000 0000 0000', SIX, SIX),
     unhex('1234 8500 0002 0002 0000 0000', SIX, SIX, 'c00c', RR_A, 'c039', RR_A),
     'original s18.2'),
    ('dns two questions, one cut @9999', UDP,
     unhex('1234 0100 0002 0000 0000 0000', SIX, SIX[:-2]), None,
     BY_HAND + 'not plainly DNS'),
    ('dns Z and junk @9999', UDP, unhex('1234 0140', ONE, '0161 0562 636465'), None, BY_HAND
     + 'Z not clear'),
    ('dns Z @9999', UDP, unhex('1234 0140', ONE, WWW, A_IN), None, 'RFC 1035 s4.1.1: not clear'),
    ('dns Z', UDP, unhex('1234 0140', ONE, WWW, A_IN),
     unhex('1234 8500 0001 0001 0000 0000', WWW, A_IN, 'c00c', RR_A), 'original s18.1'),
    ('dns padded @9999', UDP, unhex('1234 0100', ONE, WWW, A_IN) + bytes(18),
     unhex('1234 8500 0001 0001 0000 0000', WWW, A_IN, 'c00c', RR_A), 'IEEE 802.3: 60 octets'),
    ('dns padded too much @9999', UDP, unhex('1234 0100', ONE, WWW, A_IN) + bytes(19), None,
     BY_HAND + 'something else'),
    ('dns unknown type @9999', UDP, unhex('1234 0100', ONE, WWW, '7001 0001'), None,
     'RFC 6895 s3.1'),
    ('dns unknown class @9999', UDP, unhex('1234 0100', ONE, WWW, '0001 0007'), None,
     'RFC 6895 s3.2'),
    ('dns three questions @24732', UDP, unhex('1234 0100 0003 0000 0000 0000', (WWW + A_IN) * 3),
     unhex('1234 8500 0003 0003 0000 0000', (WWW + A_IN) * 3, 'c00c', RR_A, 'c021', RR_A, 'c036',
           RR_A), 'as the tests of the original ask'),
    ('dns ntp @123', UDP, unhex('1b') + bytes(47), None, 'RFC 5905 s7.3: mode 3'),
    ('dns rip response @520', UDP, unhex('0201 0000 0002 0000', '00' * 12, '00000010'), None,
     'RFC 2453 s4'),
    ('dns nbstat @137', UDP, unhex('1234 0000 0001 0000 0000 0000 20', '43 4b' + '41' * 30,
                                   '00 0021 0001'),
     None, 'RFC 1002 s4.2.17: type NBSTAT'),
    ('dns first label junk @9999', UDP, unhex('1234 0100', ONE, 'ff61 0562 636465'), None,
     BY_HAND + 'not plainly DNS'),
    ('dns id 1, 20 octets', UDP, unhex('0001 0000', ONE, '02616200', A_IN),
     unhex('0001 8400 0001 0001 0000 0000 02616200', A_IN, 'c00c', RR_A),
     'original s18.2: was taken for STUN'),
    ('dns-tcp two questions @9999', TCP, framed(unhex('1234 0100 0002 0000 0000 0000', SIX,
                                                        SIX)), None,
     BY_HAND + 'strict off port'),
    ('dns-tcp Z @9999', TCP, framed(unhex('1234 0140', ONE, WWW, A_IN)), None, BY_HAND
     + 'strict off port'),
    ('dns-tcp 4097 octets', TCP, unhex('1001 1234 0100', ONE, WWW, A_IN) + bytes(4064), None,
     BY_HAND + 'bound'),
    ('dns-tcp short for its counts', TCP, unhex('0010 1234 0100', ONE, '0161 00', A_IN), None,
     BY_HAND + 'bound'),
    ('dns-tcp then answer', TCP, framed(unhex('1234 0100', ONE, '00', A_IN))
     + framed(unhex('1234 8100', ONE, '00', A_IN)) * 2,
     framed(unhex('1234 8500 0001 0001 0000 0000 00', A_IN, '00', RR_A)), BY_HAND + 'QR'),
    ('dns-tcp then too short', TCP, framed(unhex('1234 0100', ONE, '00', A_IN)) + unhex('000b')
     + bytes(11),
     framed(unhex('1234 8500 0001 0001 0000 0000 00', A_IN, '00', RR_A)), BY_HAND
     + 'below a header'),
]

XID = '72fe1d13'
NO_AUTH = '00000000 00000000'
ACCEPTED = XID + '00000001 00000000 00000000 00000000'
DENIED = XID + '00000001 00000001'
PMAP = '000186a3 00000003 00000011 00000000'
RPCB = '000186a0 00000004 00000003 74637000 00000000 00000001 61000000'
UADDR = '0000000f 3139322e302e302e312e302e31313100'
UADDR6 = '0000001a 323030313a343164303a3a616233323a626462382e302e313131 0000'
OWNER = '00000009 737570657275736572000000'


def rpc_call(version, procedure, arguments='', rpc='00000002', program='000186a0',
             auth=NO_AUTH * 2):
    return ''.join((XID, '00000000', rpc, program, '%08x' % version, '%08x' % procedure, auth,
                    arguments))


def rpc_dump(netid, address):
    return ''.join('00000001 000186a0 %08x' % version + netid + address
                   + OWNER for version in (2, 3, 4)) + '00000000'


def rpc_dump2(number):
    return ''.join('00000001 000186a0 %08x' % version + '%08x' % number
                   + '0000006f' for version in (2, 3, 4)) + '00000000'


# (name, call, answer TCP, answer UDP or '' if the same, source)
RPC = [
    ('null 2', rpc_call(2, 0), ACCEPTED + '00000000', '', 'RFC 1833 s3.2'),
    ('null 4', rpc_call(4, 0), ACCEPTED + '00000000', '', 'RFC 1833 s2.2'),
    ('rpcinfo probe of nmap', rpc_call(104316, 0), ACCEPTED + '00000002 00000002 00000004', '',
     'original s24; nmap RPCCheck'),
    ('version 1', rpc_call(1, 0), ACCEPTED + '00000002 00000002 00000004', '', 'RFC 5531 s9'),
    ('version 5', rpc_call(5, 3), ACCEPTED + '00000002 00000002 00000004', '', 'RFC 5531 s9'),
    ('nfs', rpc_call(3, 0, program='000186a3'), ACCEPTED + '00000001', '', 'RFC 5531 s9'),
    ('rpcvers 9', rpc_call(2, 0, rpc='00000009'), DENIED + '00000000 00000002 00000002', '',
     'RFC 5531 s9'),
    ('getport', rpc_call(2, 3, PMAP), ACCEPTED + '00000000 0000006f', '', 'original s19.2'),
    ('getport without arguments', rpc_call(2, 3), ACCEPTED + '00000004', '', 'RFC 5531 s9'),
    ('getport, arguments cut', rpc_call(2, 3, PMAP[:-2]), ACCEPTED + '00000004', '',
     'RFC 5531 s9'),
    ('getaddr 3', rpc_call(3, 3, RPCB), ACCEPTED + '00000000' + UADDR, '', 'original s19.2'),
    ('getaddr 4', rpc_call(4, 3, RPCB), ACCEPTED + '00000000' + UADDR, '', 'original s19.2'),
    ('getversaddr', rpc_call(4, 9, RPCB), ACCEPTED + '00000000' + UADDR, '', 'RFC 1833 s2.2'),
    ('getversaddr of version 3', rpc_call(3, 9, RPCB), ACCEPTED + '00000003', '', 'RFC 1833 s2.1'),
    ('getaddr /6', rpc_call(4, 3, RPCB), ACCEPTED + '00000000' + UADDR6, '', 'original s19.2'),
    ('getaddr, string cut', rpc_call(4, 3, RPCB[:-4]), ACCEPTED + '00000004', '', 'RFC 5531 s9'),
    ('getaddr, string of 2^32-1', rpc_call(4, 3, '000186a0 00000004 ffffffff 74637000'), ACCEPTED
     + '00000004', '', 'RFC 5531 s9'),
    ('gettime', rpc_call(3, 6), ACCEPTED + '00000000 6b00f801', '', 'RFC 1833 s2.2'),
    ('set', rpc_call(2, 1, PMAP), ACCEPTED + '00000003', '', 'RFC 5531 s9'),
    ('dump 2', rpc_call(2, 4), ACCEPTED + '00000000' + rpc_dump2(6), ACCEPTED + '00000000'
     + rpc_dump2(17),
     'original s19.2; netid by transport'),
    ('dump 3', rpc_call(3, 4), ACCEPTED + '00000000' + rpc_dump('00000003 74637000', UADDR),
     ACCEPTED + '00000000' + rpc_dump('00000003 75647000', UADDR),
     'original s19.2; netid by transport'),
    ('dump 4 /6', rpc_call(4, 4), ACCEPTED + '00000000' + rpc_dump('00000004 74637036', UADDR6),
     ACCEPTED + '00000000' + rpc_dump('00000004 75647036', UADDR6),
     'original s19.2; netid by transport'),
    ('auth unix', rpc_call(2, 0, auth='00000001 00000016' + '00' * 24
                           + '00000000 00000004 01020304'),
     ACCEPTED + '00000000', '', 'RFC 5531 s8.2, appendix A'),
    ('credential of 401', rpc_call(2, 0, auth='00000001 00000191' + '00' * 404 + NO_AUTH), DENIED
     + '00000001 00000001', '', 'RFC 5531 s8.2'),
    ('credential of 400', rpc_call(2, 0, auth='00000001 00000190' + '00' * 400 + NO_AUTH), ACCEPTED
     + '00000000', '', 'RFC 5531 s8.2'),
    ('credential of 2^32-1', rpc_call(2, 0, auth='00000001 ffffffff'), DENIED
     + '00000001 00000001',
     '', 'RFC 5531 s8.2'),
    ('verifier of 2^32-1', rpc_call(2, 0, auth=NO_AUTH + '00000001 ffffffff'), DENIED
     + '00000001 00000003', '', 'RFC 5531 s8.2'),
    ('verifier cut', rpc_call(2, 0, auth=NO_AUTH + '00000000 00000004 010203'), None, '', BY_HAND
     + 'RFC 5531 s9'),
    ('credential cut', rpc_call(2, 0, auth='00000000 00000008 010203'), None, '', BY_HAND
     + 'RFC 5531 s9'),
    ('header only', rpc_call(2, 0, auth=''), None, '', BY_HAND + 'RFC 5531 s9'),
    ('reply', ACCEPTED + '00000000', None, '', 'RFC 5531 s9: mtype'),
]
RPC_WAITS = {                               # without a mark nothing says that no more will come
    'getport without arguments', 'getport, arguments cut', 'getaddr, string cut'}


def rpc_vectors(name, request, tcp, udp, source):
    """A row of RPC -> its vectors over both transports, with record mark and without."""
    request, tcp = unhex(request), maybe_unhex(tcp)
    udp = unhex(udp) if udp else tcp
    return [('rpc ' + name, UDP, request, udp, source),
            ('rpc marked ' + name, UDP, marked(request), marked(udp), source),
            ('rpc marked ' + name, TCP, marked(request), marked(tcp), source),
            ('rpc bare ' + name, TCP, request, None if name in RPC_WAITS else tcp, source)]


GETPORT = unhex(rpc_call(2, 3, PMAP))
GOTPORT = unhex(ACCEPTED, '00000000 0000006f')
RPC_VECTORS = [vector for row in RPC for vector in rpc_vectors(*row)]
RPC_VECTORS += [
    ('rpc fragments', TCP, struct.pack('!I', 28) + GETPORT[:28] + struct.pack('!I', 0)
     + struct.pack('!I', 5) + GETPORT[28:33]
     + struct.pack('!I', 0x80000000 | len(GETPORT) - 33) + GETPORT[33:], marked(GOTPORT),
     'RFC 5531 s11'),
    ('rpc fragments without end', TCP, struct.pack('!I', 28) + GETPORT[:28] + bytes(4 * 100), None,
     BY_HAND + 'bound'),
    ('rpc record of 65535', TCP, unhex('8000ffff') + GETPORT, None, BY_HAND + 'bound'),
    ('rpc record longer than its call', TCP, marked(unhex(rpc_call(2, 0)) + bytes(100)),
     marked(unhex(ACCEPTED, '00000000')), BY_HAND + 'RFC 5531 s9'),
    ('rpc three calls', TCP, marked(GETPORT) + marked(unhex(rpc_call(2, 0)))
     + marked(b'\xff' + GETPORT[1:]),
     marked(GOTPORT) + marked(unhex(ACCEPTED, '00000000')) + marked(b'\xff' + GOTPORT[1:]),
     'RFC 5531 s11'),
    ('rpc second call of any program', TCP, marked(GETPORT)
     + marked(unhex(rpc_call(1, 0, program='20000001'))),
     marked(GOTPORT) + marked(unhex(ACCEPTED, '00000001')), 'RFC 5531 s9'),
    ('rpc call, reply', TCP, marked(GETPORT) + marked(GOTPORT) + marked(GETPORT), marked(GOTPORT),
     BY_HAND
     + 'RFC 5531 s9'),
    ('rpc xid in 00', UDP, b'\0' + unhex(rpc_call(2, 0))[1:], b'\0'
     + unhex(ACCEPTED, '00000000')[1:], 'original s13.1: was missed'),
]

COOKIE = '2112a442'
IDENT = '000102030405060708090a0b'
MAPPED = '0001 0008 00 01 9c40 c0000000'
MAPPED6 = '0001 0014 00 02 9c40' + CLIENT6
XMAPPED = '0020 0008 00 01 bd52 e112a442'
XMAPPED6 = '0020 0014 00 02 bd52 0113e592 00010203 04050607 1a3d5c73'
BOTH4 = MAPPED + XMAPPED


def fingerprint(*fields):
    octets = unhex(*fields)
    return octets + unhex('8028 0004') + struct.pack('!I',
                                                     zlib.crc32(octets) & 0xffffffff ^ 0x5354554e)


UNKNOWN = '0009 0018 0000 0414 556e6b6e6f776e20417474726962757465 202020'
# RFC 5769 s2.1, sample request; its FINGERPRINT is right
SAMPLE = ('0001 0058 2112a442 b7e7a701bc34d686fa87dfae'
          '8022 0010 5354554e207465737420636c69656e74'
          '0024 0004 6e0001ff'
          '8029 0008 932ff9b151263b36'
          '0006 0009 6576746a3a68367659 202020'
          '0008 0014 9aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2'
          '8028 0004 e57a3bcf')
SAMPLE_ID = '2112a442 b7e7a701bc34d686fa87dfae'

STUN = [
    ('empty', '0001 0000' + COOKIE + IDENT, unhex('0101 0018' + COOKIE + IDENT + BOTH4),
     'RFC 8489 s6.3.1, s14.2'),
    ('empty /6', '0001 0000' + COOKIE + IDENT,
     unhex('0101 0030' + COOKIE + IDENT + MAPPED6 + XMAPPED6), 'RFC 8489 s14.2'),
    ('software', '0001 0008' + COOKIE + IDENT + '8022 0001 61000000',
     unhex('0101 0018' + COOKIE + IDENT + BOTH4), 'RFC 8489 s14: padding'),
    ('sample request', SAMPLE, fingerprint('0101 0020', SAMPLE_ID, MAPPED,
                                           '0020 0008 00 01 bd52 e112a442'), 'RFC 5769 s2.1'),
    ('unknown attribute', '0001 0004' + COOKIE + IDENT + '000d 0000',
     unhex('0111 0024' + COOKIE + IDENT + UNKNOWN + '000a 0004 000d 000d'), 'RFC 8489 s6.3.1'),
    ('two unknown, one twice, fingerprint', '0001 0018' + COOKIE + IDENT
     + '000d 0000 0026 0004 00000000 000d 0000 8028 0004 00000000',
     fingerprint('0111 002c' + COOKIE + IDENT + UNKNOWN + '000a 0004 000d 0026'),
     'RFC 8489 s14.13'),
    ('many unknown', '0001 0050' + COOKIE + IDENT + ''.join('7f%02x 0000' % i for i in range(20)),
     unhex('0111 0040' + COOKIE + IDENT + UNKNOWN + '000a 0020'
           + ''.join('7f%02x' % i for i in range(16))), BY_HAND + 'bound'),
    ('long attribute', '0001 0104' + COOKIE + IDENT + '8022 0100' + '61' * 256,
     unhex('0101 0018' + COOKIE + IDENT + BOTH4), 'original s17'),
    ('attribute past the end', '0001 0008' + COOKIE + IDENT + '8022 0005 61000000', None,
     'original s23.1 C2'),
    ('mapped-address in a request', '0001 0008' + COOKIE + IDENT + '0001 0004 00ff0000',
     unhex('0101 0018' + COOKIE + IDENT + BOTH4), 'original s23.1 C4'),
    ('change-request of 3', '0001 0008' + COOKIE + IDENT + '0003 0003 00000200', None,
     'original s23.1 C5'),
    ('change-request of 0', '0001 0004' + COOKIE + IDENT + '0003 0000', None, 'original s23.1 C5'),
    ('length not of 4', '0001 0003' + COOKIE + IDENT + '802200', None, 'RFC 8489 s5'),
    ('cut', '0001 0008' + COOKIE + IDENT + '8022 0004', None, 'RFC 8489 s5'),
    ('answer', '0101 0018' + COOKIE + IDENT + BOTH4, None, 'RFC 8489 s5: class'),
    ('too long', '0001 fffc' + COOKIE + IDENT, None, BY_HAND + 'bound'),
]
CLASSIC = '00112233445566778899aabbccddeeff'
STUN_VECTORS = [('stun ' + row[0], over, unhex(row[1]), row[2], row[3])
                for row in STUN for over in (UDP, TCP)]
STUN_VECTORS += [
    ('stun change ip and port', UDP, unhex('0001 0008', COOKIE, IDENT, '0003 0004 00000006'),
     (3479, unhex('0101 0018', COOKIE, IDENT, BOTH4)), 'original s24'),
    ('stun change port of 65535 @65535', UDP,
     unhex('0001 0008', COOKIE, IDENT, '0003 0004 00000002'),
     (1, unhex('0101 0018', COOKIE, IDENT, BOTH4)), BY_HAND + 'no port 0'),
    ('stun change ip', UDP, unhex('0001 0008', COOKIE, IDENT, '0003 0004 00000004'),
     unhex('0101 0018', COOKIE, IDENT, BOTH4), 'original s17'),
    ('stun change port over tcp', TCP, unhex('0001 0008', COOKIE, IDENT, '0003 0004 00000002'),
     unhex('0101 0018', COOKIE, IDENT, BOTH4), 'RFC 5780 s7.2'),
    ('stun trailing octets', UDP, unhex('0001 0000', COOKIE, IDENT, 'ffff'),
     unhex('0101 0018', COOKIE, IDENT, BOTH4), 'original s17'),
    ('stun-classic empty', UDP, unhex('0001 0000', CLASSIC),
     unhex('0101 000c', CLASSIC, MAPPED), 'RFC 3489 s8.1'),
    ('stun-classic empty /6', UDP, unhex('0001 0000', CLASSIC),
     unhex('0101 0018', CLASSIC, MAPPED6), 'original s17'),
    ('stun-classic change port', UDP, unhex('0001 0008', CLASSIC, '0003 0004 00000002'),
     (3479, unhex('0101 000c', CLASSIC, MAPPED)), 'original s17'),
    ('stun-classic flags 0', UDP, unhex('0001 0008', CLASSIC, '0003 0004 00000000'),
     unhex('0101 000c', CLASSIC, MAPPED), 'original s17'),
    ('stun-classic response-address', UDP, unhex('0001 000c', CLASSIC,
                                                   '0002 0008 0001 1234 01020304'),
     unhex('0111 0024', CLASSIC, UNKNOWN, '000a 0004 0002 0002'), 'RFC 3489 s8.1'),
    ('stun-classic trailing octets', UDP, unhex('0001 0000', CLASSIC, 'ff'), None,
     'original s17'),
    ('stun-classic not over tcp', TCP, unhex('0001 0000', CLASSIC), None, BY_HAND
     + 'RFC 3489 s8.1'),
    ('stun-classic malformed', UDP, unhex('0001 0008', CLASSIC, '0003 0005 00000000'), None,
     BY_HAND + 'RFC 3489 s11.2'),
]

# limits, from both sides


def dns_sized(count, names, size=None):
    """Query of `count` questions of names of these lengths, and its answer if not cut."""
    tail, name = ('', '') if size is None else ('00 0029 %04x 0000 0000 0000' % size,
                                                '00 0029 04d0 0000 0000 0000')
    asked, found, at = '', '', 12
    for length in names:
        asked += '%02x' % (length - 2) + '61' * (length - 2) + '00' + A_IN
        found += '%04x' % (0xc000 | at) + RR_A
        at += length + 4
    flags, count = '0001' if tail else '0000', '%04x' % count
    return (unhex('1234 0100', count, '0000 0000', flags, asked, tail),
            unhex('1234 8500', count, count, '0000', flags, asked, found, name),
            unhex('1234 8700', count, '0000 0000', flags, asked, name))


DNS_LIMITS = [                              # name, lengths of the names, EDNS size, is it cut?
    ('512 octets', [30] * 10, None, False), ('513 octets', [30] * 9 + [31], None, True),
    ('1232 octets', [19] * 31, 5000, False), ('1233 octets', [19] * 30 + [20], 5000, True),
    ('as many as edns says', [19] * 20, 803, False),
    ('one more than edns says', [19] * 20, 802, True)]
ROOTS = '1234 0100 0040 0000 0000 0000' + ('00' + A_IN) * 64
GETADDR = unhex(rpc_call(3, 3, '000186a0 00000004 00000000 00000000 00000400'))
DNS_VECTORS += [('dns ' + name, UDP, dns_sized(len(names), names, size)[0],
                 dns_sized(len(names), names, size)[2 if cut else 1], 'RFC 6891 s6.2.3')
                for name, names, size, cut in DNS_LIMITS]
LIMIT_VECTORS = [
    ('dns-tcp 64 questions', TCP, framed(unhex(ROOTS)),
     framed(unhex('1234 8500 0040 0040 0000 0000' + ('00' + A_IN) * 64 + ('00' + RR_A) * 64)),
     BY_HAND + 'bound'),
    ('dns two roots /6', UDP, unhex('1234 0100 0002 0000 0000 0000', ('00' + AAAA_IN) * 2),
     unhex('1234 8700 0002 0000 0000 0000', ('00' + AAAA_IN) * 2), BY_HAND
     + 'more than three times as long'),
    ('dns questions fill 512', UDP, dns_sized(10, [46] * 10)[0], dns_sized(10, [46] * 10)[2],
     'RFC 2181 s9'),
    ('dns questions of 513', UDP, dns_sized(10, [46] * 9 + [47])[0],
     unhex('1234 8700 0000 0000 0000 0000'), 'RFC 2181 s9'),
    ('dns all edns flags', UDP, unhex('1234 0100', ONE_OPT, '00', A_IN,
                                        '00 0029 04d0 00 00 ffff 0000'),
     unhex('1234 8500 0001 0001 0000 0001 00', A_IN, '00', RR_A, OPT_ANSWER), 'RFC 3225 s3'),
    ('dns root edns @9999', UDP, unhex('1234 0100', ONE_OPT, '00', A_IN, OPT),
     unhex('1234 8500 0001 0001 0000 0001 00', A_IN, '00', RR_A, OPT_ANSWER), BY_HAND
     + 'just fits'),
    ('dns junk, rcode set @9999', UDP, unhex('1234 010f', ONE, '0161 0562 636465'), None,
     BY_HAND + 'not whole, so it may be anything'),
    ('dns junk, rcode set', UDP, unhex('1234 010f', ONE, '0161 0562 636465'),
     unhex('1234 8101 0000 0000 0000 0000'), BY_HAND + 'port of DNS'),
    ('dns label of 63, cut @9999', UDP, unhex('1234 0100', ONE, LONG[:128]), None,
     BY_HAND + 'not whole'),
    ('dns label of 63, shorter @9999', UDP, unhex('1234 0100', ONE, LONG[:126]), None, BY_HAND
     + 'not plainly DNS'),
    ('dns label of 64', UDP, unhex('1234 0100', ONE, '40' + '61' * 64 + '00', A_IN),
     unhex('1234 8101 0000 0000 0000 0000'), 'RFC 1035 s2.3.4'),
    ('dns no question @5353', UDP, unhex('1234 0000 0000 0000 0000 0000'),
     unhex('1234 8001 0000 0000 0000 0000'), BY_HAND + 'port of DNS'),
    ('dns-tcp 4096 octets', TCP, unhex('1000 1234 0100', ONE, '00', A_IN) + bytes(4096 - 17),
     framed(unhex('1234 8500 0001 0001 0000 0000 00', A_IN, '00', RR_A)), BY_HAND + 'bound'),
    ('rpc string of 1024', TCP, GETADDR + bytes(1024), unhex(ACCEPTED, '00000000', UADDR),
     BY_HAND + 'bound'),
    ('rpc string of 1025', TCP, GETADDR[:-4] + unhex('00000401'), unhex(ACCEPTED, '00000004'),
     BY_HAND + 'bound'),
    ('rpc getaddr @40000', UDP, unhex(rpc_call(3, 3, RPCB)),
     unhex(ACCEPTED, '00000000 00000010 3139322e302e302e312e3135362e3634'), 'RFC 5665 s5.2.3'),
    ('rpc gettime of version 2', UDP, unhex(rpc_call(2, 6)), unhex(ACCEPTED, '00000003'),
     'RFC 1833 s3.1'),
    ('rpc 16 fragments', TCP, struct.pack('!I', 28) + GETPORT[:28] + bytes(4 * 14)
     + struct.pack('!I', 0x80000000 | len(GETPORT) - 28) + GETPORT[28:],
     marked(GOTPORT), BY_HAND + 'bound'),
    ('rpc 17 fragments', TCP, struct.pack('!I', 28) + GETPORT[:28] + bytes(4 * 15)
     + struct.pack('!I', 0x80000000 | len(GETPORT) - 28) + GETPORT[28:],
     None, BY_HAND + 'bound'),
    ('rpc record of 16384', TCP, marked(GETPORT + bytes(16380 - len(GETPORT))), marked(GOTPORT),
     BY_HAND
     + 'bound'),
    ('rpc record of 16385', TCP, marked(GETPORT + bytes(16381 - len(GETPORT))), None, BY_HAND
     + 'bound'),
    ('rpc two marked in a datagram', UDP, marked(GETPORT) * 2, marked(GOTPORT), BY_HAND
     + 'one answer a datagram'),
    ('rpc call, then a short record', TCP, marked(GETPORT) + marked(bytes(4)), marked(GOTPORT),
     BY_HAND + 'RFC 5531 s9'),
    ('rpc call, then nothing marked', TCP, marked(GETPORT) + marked(b''), marked(GOTPORT), BY_HAND
     + 'RFC 5531 s9'),
    ('rpc bare null twice', TCP, unhex(rpc_call(2, 0)) * 2, unhex(ACCEPTED, '00000000'), BY_HAND
     + 'only the first'),
    ('stun all that is known', UDP, unhex('0001 0050', COOKIE, IDENT, *(
        '%04x 0000' % kind for kind in (1, 4, 5, 6, 7, 8, 9, 10, 11, 0x14, 0x15, 0x1c, 0x1d, 0x1e,
                                        0x20, 0x24, 0x25, 0x8000, 0x8022, 0xffff))),
     unhex('0101 0018', COOKIE, IDENT, BOTH4), 'RFC 8489 s18.3.1'),
    ('stun unknown below 8000', UDP, unhex('0001 0004', COOKIE, IDENT, '7fff 0000'),
     unhex('0111 0024', COOKIE, IDENT, UNKNOWN, '000a 0004 7fff 7fff'), 'RFC 8489 s14'),
    ('stun three unknown', UDP, unhex('0001 000c', COOKIE, IDENT,
                                        '7ffd 0000 7ffe 0000 7fff 0000'),
     unhex('0111 0028', COOKIE, IDENT, UNKNOWN, '000a 0008 7ffd 7ffe 7fff 7fff'),
     'RFC 3489 s11.2.10'),
    ('stun flags without change', UDP, unhex('0001 0008', COOKIE, IDENT, '0003 0004 fffffffd'),
     unhex('0101 0018', COOKIE, IDENT, BOTH4), 'RFC 5780 s7.2'),
]

BANNER = b'SSH-2.0-1\r\n'
GH0ST = bytes.fromhex('4768307374' '16000000' '01000000' '789c63000000010001')
PAGE = (b'HTTP/1.1 401 Unauthorized\r\nServer: nginx/1.14.2\r\n'
        b'Date: Sat, 21 Nov 2026 01:46:41 GMT\r\n'
        b'Content-Type: text/html\r\nContent-Length: 188\r\nConnection: %s\r\n'
        b'WWW-Authenticate: Basic realm="Access to admin page"\r\n\r\n%s')
BODY = (b'<html>\n<head><title>401 Authorization Required</title></head>\n<body bgcolor="white">\n'
        b'<center><h1>401 Authorization Required</h1></center>\n'
        b'<hr><center>nginx/1.14.2</center>\n</body>\n</html>\n')
KEEP, CLOSE = PAGE % (b'keep-alive', BODY), PAGE % (b'close', BODY)
KEEP_HEAD, CLOSE_HEAD = PAGE % (b'keep-alive', b''), PAGE % (b'close', b'')
HTTP_LINE = b'HTTP/1.1 401 Unauthorized\r\n'
LONG_GET = b'GET /' + b'x' * 200 + b' HTTP/1.1\r\n\r\n'
GO = b'HTTP/1.1 100 Continue\r\n\r\n'
GET = b'GET / HTTP/1.1\r\nHost: a\r\n\r\n'


def post(fields, body=b'', version=b'1.1'):
    return b'POST /x HTTP/%s\r\n%s\r\n\r\n%s' % (version, fields, body)


CHUNKED = b'Transfer-Encoding: chunked'
CHUNKS = b'5\r\nhello\r\n0A;a=b;c="d"\r\n0123456789\r\n000\r\nX-T: 1\r\n\r\n'
FIVE = b'Content-Length: 5'

HTTP_VECTORS = [
    # ---- http: forms of the request -----------------------------------------------
    ('http get', TCP, GET, KEEP, 'RFC 9112 s2.1; page: original s14.2'),
    ('http shortest', TCP, b'GET / HTTP/.\n\n', CLOSE, 'original s14.1, s23.2'),
    ('http bare LF', TCP, b'GET / HTTP/1.1\nHost: a\n\n', KEEP, 'original s14.1'),
    ('http many CR', TCP, b'GET / HTTP/1.1\r\r\nHost: a\r\r\n\r\r\r\n', KEEP, 'original s14.1'),
    ('http long version', TCP, b'GET / HTTP/0001.%s\r\n\r\n' % (b'9' * 5000), KEEP,
     'by hand: int() limit'),
    ('http version 0.9', TCP, b'GET / HTTP/0.9\r\n\r\n', CLOSE, 'by hand'),
    ('http version 2.0', TCP, b'GET / HTTP/2.0\r\n\r\n', KEEP, 'by hand, RFC 9112 s2.3'),
    ('http version 1.', TCP, b'GET / HTTP/1.\r\n\r\n', CLOSE, 'original s14.1'),
    ('http no dot', TCP, b'GET / HTTP/2\r\n\r\n', None, 'original s14.1'),
    ('http no version', TCP, b'GET /\r\n\r\n', None, 'original s14.1'),
    ('http preface', TCP, b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', None, 'RFC 9113 s3.4'),
    ('http blank in target', TCP, b'GET /a b HTTP/1.1\r\n\r\n', None, 'original s14.1'),
    ('http CR in target', TCP, b'GET /a\rb HTTP/1.1\r\n\r\n', None, 'RFC 9112 s2.2'),
    ('http not utf-8', TCP, b'GET /\xff HTTP/1.1\r\n\r\n', KEEP, 'original s23.1 C6'),
    ('http relative', TCP, b'GET a HTTP/1.1\r\n\r\n', None, 'RFC 9112 s3.2'),
    ('http GET *', TCP, b'GET * HTTP/1.1\r\n\r\n', None, 'RFC 9112 s3.2.4'),
    ('http OPTIONS *', TCP, b'OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n', KEEP, 'RFC 9112 s3.2.4'),
    ('http absolute', TCP, b'GET http://www.example.org/pub HTTP/1.1\r\n\r\n', KEEP,
     'RFC 9112 s3.2.2'),
    ('http CONNECT', TCP, b'CONNECT www.example.com:80 HTTP/1.1\r\nHost: www.example.com\r\n\r\n',
     KEEP,
     'RFC 9112 s3.2.3'),
    ('http CONNECT v6', TCP, b'CONNECT [::1]:443 HTTP/1.0\r\n\r\n', CLOSE, 'by hand'),
    ('http CONNECT /', TCP, b'CONNECT / HTTP/1.1\r\n\r\n', KEEP, 'original s13'),
    ('http CONNECT no port', TCP, b'CONNECT a: HTTP/1.1\r\n\r\n', None, 'RFC 9110 s9.3.6'),
    ('http GET a:80', TCP, b'GET a:80 HTTP/1.1\r\n\r\n', None, 'RFC 9112 s3.2.3'),
    ('http head', TCP, b'HEAD / HTTP/1.1\r\n\r\n', KEEP_HEAD, 'RFC 9110 s9.3.2'),
    ('http head 1.0', TCP, b'HEAD / HTTP/1.0\r\n\r\n', CLOSE_HEAD, 'RFC 9110 s9.3.2'),
    # ---- http: fields -------------------------------------------------------------
    ('http odd names', TCP, b'GET / HTTP/1.1\r\n::\r\n a:b\r\n', None, 'no end'),
    ('http odd names, end', TCP, b'GET / HTTP/1.1\r\n::\r\n a:b\r\n\r\n', KEEP, 'original s14.1'),
    ('http no colon', TCP, b'GET / HTTP/1.1\r\nHost\r\n\r\n', None, 'original s14.1'),
    ('http colon first', TCP, b'GET / HTTP/1.1\r\n:Host\r\n\r\n', None, 'original s14.1'),
    ('http CR in name', TCP, b'GET / HTTP/1.1\r\nHo\rst:a\r\n\r\n', None, 'original s14.1'),
    ('http head 16 KiB', TCP, b'GET / HTTP/1.1\r\na:' + b'x' * (16384 - 22) + b'\r\n\r\n', KEEP,
     'by hand'),
    ('http head too long', TCP, b'GET / HTTP/1.1\r\na:' + b'x' * (16385 - 22) + b'\r\n\r\n', None,
     'by hand'),
    ('http line too long', TCP, b'GET /' + b'x' * 20000, None, 'by hand'),
    ('http fields too many', TCP, b'GET / HTTP/1.1\r\n' + b'a:\n' * 9000 + b'\n', None, 'by hand'),
    ('http close', TCP, b'GET / HTTP/1.1\r\nconnection: x , CLOSE\r\n\r\n' + GET, CLOSE,
     'RFC 9112 s9.6'),
    ('http 1.0', TCP, b'GET / HTTP/1.0\r\n\r\n' + GET, CLOSE, 'RFC 9112 s9.3'),
    ('http 1.0 keep-alive', TCP, b'GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n' + GET,
     KEEP * 2,
     'RFC 9112 s9.3'),
    ('http close beats keep-alive', TCP,
     b'GET / HTTP/1.0\r\nConnection: Keep-Alive\r\nConnection: close\r\n\r\n',
     CLOSE, 'RFC 9112 s9.3'),
    ('http close, then other', TCP,
     b'GET / HTTP/1.1\r\nConnection: close\r\nConnection: x\r\n\r\n' + GET,
     CLOSE, 'RFC 9112 s9.6'),
    ('http keep-alive, then other', TCP,
     post(b'Connection: keep-alive\r\nConnection: x', b'', b'1.0'),
     KEEP, 'RFC 9112 s9.3'),
    ('http close, chunked', TCP, post(b'Connection: close\r\n' + CHUNKED, CHUNKS) + GET, CLOSE,
     'RFC 9112 s9.6'),
    # ---- http: several requests ---------------------------------------------------
    ('http two', TCP, GET + b'HEAD / HTTP/1.1\r\n\r\n' + GET, KEEP + KEEP_HEAD + KEEP,
     'RFC 9112 s9.3.2'),
    ('http empty lines', TCP, GET + b'\r\n\n\r\n' * 9 + GET, KEEP * 2, 'RFC 9112 s2.2'),
    ('http then junk', TCP, GET + b'junk\r\n' + GET, KEEP, 'by hand'),
    # ---- http: bodies -------------------------------------------------------------
    ('http body', TCP, post(FIVE, b'GET /') + GET, KEEP * 2, 'RFC 9112 s6.3'),
    ('http body 0', TCP, post(b'Content-Length: 000') + GET, KEEP * 2, 'RFC 9112 s6.3'),
    ('http body 100 kB', TCP, post(b'Content-Length: 100000', b'\n' * 100000) + GET, KEEP * 2,
     'RFC 9112 s6.3'),
    ('http body cut', TCP, post(FIVE, b'1234'), None, 'RFC 9112 s6.3'),
    ('http length thrice', TCP, post(FIVE + b', 05\r\n' + FIVE, b'12345') + GET, KEEP * 2,
     'RFC 9110 s8.6'),
    ('http length blank', TCP, post(b'Content-Length : 5', b'12345') + GET, KEEP * 2, 'by hand'),
    ('http length folded', TCP, b'GET / HTTP/1.1\r\na: b\r\n content-length: 5\r\n\r\n' + GET,
     KEEP * 2, 'by hand'),
    ('http lengths differ', TCP, post(FIVE + b'\r\nContent-Length: 6', b'123456'), CLOSE,
     'RFC 9112 s6.3'),
    ('http length list differs', TCP, post(b'Content-Length: 5, 6, 5', b'12345') + GET, CLOSE,
     'RFC 9112 s6.3'),
    ('http length -1', TCP, post(b'Content-Length: -1') + GET, CLOSE, 'RFC 9112 s6.3'),
    ('http length empty', TCP, post(b'Content-Length:') + GET, CLOSE, 'RFC 9112 s6.3'),
    ('http length huge', TCP, post(b'Content-Length: ' + b'9' * 5000) + GET, CLOSE,
     'by hand: int() limit'),
    ('http length large', TCP, post(b'Content-Length: ' + b'9' * 18, b'x' * 99) + GET, None,
     'by hand'),
    ('http chunked', TCP, post(CHUNKED, CHUNKS) + GET, KEEP * 2, 'RFC 9112 s7.1'),
    ('http chunked LF', TCP, post(CHUNKED, CHUNKS.replace(b'\r', b'')) + GET, KEEP * 2, 'by hand'),
    ('http chunked twice coded', TCP,
     post(b'Transfer-Encoding: gzip\r\nTransfer-Encoding: x, Chunked', CHUNKS)
     + GET, KEEP * 2, 'RFC 9112 s6.1'),
    ('http chunked empty', TCP, post(CHUNKED, b'0\r\n\r\n') + GET, KEEP * 2, 'RFC 9112 s7.1'),
    ('http chunked cut', TCP, post(CHUNKED, b'0\r\n'), None, 'RFC 9112 s7.1'),
    ('http chunked and length', TCP, post(FIVE + b'\r\n' + CHUNKED, CHUNKS) + GET, CLOSE,
     'RFC 9112 s6.3'),
    ('http chunked 1.0', TCP, post(CHUNKED + b'\r\nConnection: keep-alive', CHUNKS, b'1.0') + GET,
     CLOSE,
     'RFC 9112 s6.1'),
    ('http coding gzip', TCP, post(b'Transfer-Encoding: chunked, gzip', CHUNKS) + GET, CLOSE,
     'RFC 9112 s6.3'),
    ('http coding empty', TCP, post(b'Transfer-Encoding:', CHUNKS) + GET, CLOSE, 'by hand'),
    ('http chunk size none', TCP, post(CHUNKED, b';a\r\n') + GET, CLOSE, 'RFC 9112 s7.1'),
    ('http chunk size -1', TCP, post(CHUNKED, b'-1\r\n') + GET, CLOSE, 'RFC 9112 s7.1'),
    ('http chunk size huge', TCP, post(CHUNKED, b'1' * 16 + b'\r\n') + GET, CLOSE, 'by hand'),
    ('http chunk size zeros', TCP, post(CHUNKED, b'0' * 4000 + b'1\r\nx\r\n0\r\n\r\n') + GET,
     KEEP * 2, 'by hand'),
    ('http chunk line long', TCP, post(CHUNKED, b'1;' + b'x' * 5000), CLOSE, 'RFC 9112 s7.1.1'),
    ('http chunk end not empty', TCP, post(CHUNKED, b'1\r\nxy\r\n') + GET, CLOSE, 'RFC 9112 s7.1'),
    ('http chunk end not empty, more', TCP, post(CHUNKED, b'1\r\nxy\r\n0\r\n\r\n') + GET, CLOSE,
     'RFC 9112 s7.1'),
    ('http trailers long', TCP, post(CHUNKED, b'0\r\n' + b'a: b\r\n' * 3000), CLOSE, 'by hand'),
    ('http expect', TCP, post(FIVE + b'\r\nExpect: 100-Continue', b'12345') + GET, GO + KEEP * 2,
     'RFC 9110 s10.1.1'),
    ('http expect, body to come', TCP, post(FIVE + b'\r\nExpect: 100-continue'), GO,
     'RFC 9110 s10.1.1'),
    ('http expect chunked', TCP, post(CHUNKED + b'\r\nExpect: 100-continue', CHUNKS) + GET,
     GO + KEEP * 2,
     'RFC 9110 s10.1.1'),
    ('http expect, then other', TCP, post(FIVE + b'\r\nExpect: 100-continue\r\nExpect: x',
                                          b'12345'),
     GO + KEEP, 'RFC 9110 s10.1.1'),
    ('http expect nothing', TCP, post(b'Expect: 100-continue') + GET, KEEP * 2,
     'RFC 9110 s10.1.1'),
    ('http expect 1.0', TCP, post(FIVE + b'\r\nExpect: 100-continue', b'12345', b'1.0'), CLOSE,
     'RFC 9110 s10.1.1'),
    ('http expect bad length', TCP, post(b'Content-Length: x\r\nExpect: 100-continue', b'12345'),
     CLOSE, 'by hand'),
    # ---- http over UDP ------------------------------------------------------------
    ('http udp', UDP, GET, HTTP_LINE, 'original s14, cut to twice the request'),
    ('http udp shortest', UDP, b'GET / HTTP/.\n\n', HTTP_LINE, 'by hand'),
    ('http udp head', UDP, post(b'a:' + b'x' * 100), KEEP_HEAD, 'by hand'),
    ('http udp page', UDP, post(b'a:' + b'x' * ((len(KEEP) + 1) // 2 - 24)), KEEP, 'by hand'),
    ('http udp a page but one', UDP, post(b'a:' + b'x' * ((len(KEEP) + 1) // 2 - 25)), KEEP_HEAD,
     'by hand'),
    ('http udp two', UDP, GET + GET, HTTP_LINE, 'by hand'),
    ('http udp body', UDP, post(FIVE, b'12345'), HTTP_LINE, 'by hand'),
    ('http udp no body', UDP, post(FIVE + b'\r\nExpect: 100-continue'), HTTP_LINE, 'by hand'),
    ('http udp chunked', UDP, post(CHUNKED, b'zz'), HTTP_LINE, 'by hand'),
    ('http udp cut', UDP, GET[:-1], None, 'by hand'),
    ('http udp no line end', UDP, b'GET / HTTP/1.1', None, 'by hand'),
    ('http udp own answer', UDP, KEEP, None, 'by hand: no loop'),
    ('http own answer', TCP, KEEP, None, 'by hand: no loop'),
    # ---- ssh ----------------------------------------------------------------------
    ('ssh', TCP, b'SSH-2.0-OpenSSH_9.6 comment\r\n', BANNER, 'RFC 4253 s4.2'),
    ('ssh 1.99', TCP, b'SSH-1.99-x\r\n', BANNER, 'RFC 4253 s5.1'),
    ('ssh LF', TCP, b'SSH-2.0-x\n', BANNER, 'masscanned.md'),
    ('ssh empty software', TCP, b'SSH-2.0-\r\n', BANNER, 'original s15'),
    ('ssh odd version', TCP, b'SSH-2.05..-x\r\n', BANNER, 'original s15'),
    ('ssh bad version', TCP, b'SSH-2.0x-x\r\n', None, 'original s15'),
    ('ssh no dash', TCP, b'SSH-2.0\r\n', None, 'original s15'),
    ('ssh 1.5', TCP, b'SSH-1.5-x\r\n', None, 'original s15'),
    ('ssh cut', TCP, b'SSH-2.0-OpenSSH', None, 'original s15'),
    ('ssh kex', TCP, b'SSH-2.0-x\r\n' + bytes.fromhex('00000014' '06' '14') + b'SSH-2.0-y\r\n',
     BANNER,
     'RFC 4253 s6'),
    ('ssh again', TCP, b'SSH-2.0-x\r\nSSH-1.99-y\nSSH-2', BANNER * 2, 'original s15'),
    ('ssh 1 KiB', TCP, b'SSH-2.0-' + b'x' * 1014 + b'\r\n', BANNER, 'by hand'),
    ('ssh too long', TCP, b'SSH-2.0-' + b'x' * 1015 + b'\r\n', None, 'by hand'),
    ('ssh own answer', TCP, BANNER + b'SSH-2.0-x\r\n', None, 'original s23.2: no loop'),
    ('ssh udp', UDP, b'SSH-2.0-x\r\n', BANNER, 'original s15'),
    ('ssh udp two', UDP, b'SSH-2.0-x\r\nSSH-2.0-x\r\n', BANNER, 'by hand'),
    ('ssh udp cut', UDP, b'SSH-2.0-x', None, 'original s15'),
    ('ssh udp own answer', UDP, BANNER, None, 'original s23.2: no loop'),
    # ---- gh0st --------------------------------------------------------------------
    ('gh0st', TCP, b'Gh0st', GH0ST, 'original s16'),
    ('gh0st twice', TCP, b'Gh0stGh0st', GH0ST * 2, 'by hand: the second is no length'),
    ('gh0st packets', TCP, (b'Gh0st' + bytes.fromhex('18000000' '20000000') + b'x' * 11) * 3,
     GH0ST * 3, 'by hand'),
    ('gh0st skips', TCP, b'Gh0st' + bytes.fromhex('1a000000') + b'Gh0st' * 4 + b'!', GH0ST,
     'by hand'),
    ('gh0st head only', TCP, b'Gh0st' + bytes.fromhex('0d000000' '00000000') + b'Gh0st', GH0ST * 2,
     'by hand'),
    ('gh0st then junk', TCP, b'Gh0st' + bytes.fromhex('0d000000' '00000000' '0d000000') + b'x' * 4
     + b'Gh0st', GH0ST, 'by hand'),
    ('gh0st too short', TCP, b'Gh0st' + bytes.fromhex('0c000000' '00000000') + b'Gh0st', GH0ST,
     'by hand'),
    ('gh0st 22 other octets', TCP, b'Gh0st' + bytes.fromhex('16000000') + b'x' * 13 + b'Gh0st',
     GH0ST * 2, 'by hand'),
    ('gh0st long', TCP, b'Gh0st' + bytes.fromhex('00000100') + b'x' * 65527 + b'Gh0st', GH0ST * 2,
     'by hand'),
    ('gh0st own answer', TCP, GH0ST * 2, GH0ST, 'original s23.2: one each, then silence'),
    ('gh0st udp', UDP, b'Gh0st', GH0ST, 'original s24'),
    ('gh0st udp two', UDP, b'Gh0stGh0st', GH0ST, 'by hand'),
    ('gh0st udp own answer', UDP, GH0ST, None, 'original s23.2: no loop'),
    ('gh0st cut', TCP, b'Gh0s', None, 'by hand'),
]

def nbss(*fields):
    """Fields in hex or octets -> NetBIOS session message."""
    body = b''.join(each if isinstance(each, bytes) else unhex(each) for each in fields)
    return struct.pack('!I', len(body)) + body


TIME = '203cc927 5a79dd01'              # 100 ns since 1601 at NOW
GUID = '11' * 16
NAME = 'WIN-RRRRRRRRRRR'.encode('utf-16-le').hex()
OID = '060a 2b06010401823702020a'
INIT = ('6048 0606 2b0601050502 a03e 303c a00e 300c' + OID + 'a32a 3028 a026 1b24'
        + b'not_defined_in_RFC4178@please_ignore'.hex())
NTLM = b'NTLMSSP\0'.hex()

# ---- NTLMSSP
NEGOTIATE = NTLM + '01000000 158208e2' + '00' * 16 + '0a00614a0000000f'     # Windows 10
AUTHENTICATE = NTLM + '03000000' + '00' * 48 + '158288e2'
TARGET = ('0200 1e00' + NAME + '0100 1e00' + NAME + '0400 1e00' + NAME + '0300 1e00' + NAME
          + '0700 0800' + TIME + '0000 0000')       # 4 * 34 + 12 + 4 = 152 = 0x98
CHALLENGE = (NTLM + '02000000 1e00 1e00 38000000 15828ae2' + '11' * 8 + '00' * 8
             + '9800 9800 56000000 0a00614a0000000f' + NAME + TARGET)     # 56 + 30 + 152 = 238
# 5 + 14 + 3 + 3 + 238 = 263 = 0x107
ANSWERED = ('a182 010b 3082 0107 a003 0a01 01 a10c' + OID + 'a281 f1 0481 ee' + CHALLENGE)
OEM_CHALLENGE = (NTLM + '02000000 0f00 0f00 38000000 06028202' + '11' * 8 + '00' * 8
                 + '9800 9800 47000000 0a00614a0000000f' + b'WIN-RRRRRRRRRRR'.hex() + TARGET)
SPNEGO_FIRST = ('6048 0606 2b0601050502 a03e 303c a00e 300c' + OID + 'a22a 0428' + NEGOTIATE)
SPNEGO_THIRD = 'a14c 304a a248 0446' + AUTHENTICATE + '00' * 6
KERBEROS_FIRST = ('602f 0606 2b0601050502 a025 3023 a019 3017 0609 2a864886f712010202' + OID
                  + 'a206 0404 deadbeef')
KERBEROS_ONLY = ('6023 0606 2b0601050502 a019 3017 a00d 300b 0609 2a864886f712010202'
                 + 'a206 0404 deadbeef')
REQUEST_MIC = 'a115 3013 a003 0a01 03 a10c' + OID


# ---- SMB1
def smb1(command, *body, flags='18', flags2='43c8', uid='0000'):
    return nbss('ff534d42', command, '00000000', flags, flags2, '0000' + '00' * 10,
                 '0000 fffe', uid, '0100', *body)


def smb1_answer(command, status, *body, flags2='07c8', uid='0000'):
    return nbss('ff534d42', command, status, '98', flags2, '0000' + '00' * 10, '0000 fffe',
                 uid, '0100', *body)


def dialects(*names):
    area = b''.join(b'\2' + name + b'\0' for name in names)
    return b'\0' + struct.pack('<H', len(area)) + area


def setup1(blob, more=''):
    size = struct.pack('<H', len(unhex(blob))).hex()
    total = struct.pack('<H', len(unhex(blob, more))).hex()
    return ('0c ff 00 0000 ffff 0200 0100 00000000', size, '00000000 54c00080', total, blob, more)


def nt1(index):
    return (index, '03 3200 3200 00000100 00000100 00000000 fce30180', TIME, '3c00 00 5a00', GUID,
            INIT)


NATIVE = 'Windows 10 Pro 19041\0Windows 10 Pro 6.3\0'
SPEC_NEGOTIATE = unhex(                 # masscanned-original.md s24
    '00000054 ff534d4272000000001843c80000000000000000000000000000feff00000000 00 3100',
    '024e54204c414e4d414e20312e3000 024e54204c4d20302e313200 02534d4220322e30303200',
    '02534d4220322e3f3f3f00')
PLAIN_SETUP = ('0d ff 00 0000 ffff 0200 0100 00000000 0100 0000 00000000 d4000000 0500 00'
               '61 00 62 00')


def setup1_answer(blob, text, pad=''):
    size = struct.pack('<H', len(unhex(blob))).hex()
    rest = unhex(blob, pad) + text
    return '04 ff 00 0000 0000', size, struct.pack('<H', len(rest)), rest


# ---- SMB2
ZERO8 = '00' * 8


def smb2(command, *body, flags='00000000', mid='01', session=ZERO8, nxt='00000000', charge='0000'):
    return nbss(smb2_bare(command, *body, flags=flags, mid=mid, session=session, nxt=nxt,
                           charge=charge))


def smb2_bare(command, *body, flags='00000000', mid='01', session=ZERO8, nxt='00000000',
              charge='0000'):
    head = unhex('fe534d42 4000', charge, '00000000', command, '1f00', flags, nxt, mid,
                 '00' * 7, 'fffe0000 00000000', session, '00' * 16)
    return head + b''.join(f if isinstance(f, bytes) else unhex(f) for f in body)


def smb2_answer(command, status, *body, mid='01', session=ZERO8, charge='0000',
                ids='fffe0000 00000000'):
    return nbss('fe534d42 4000', charge, status, command, '0100 01000000 00000000', mid, '00' * 7,
                 ids, session, '00' * 16, *body)


ERROR = '0900 00 00 00000000 00'
SESSION = '8988888888888808'
FAILURE, DELETED, INVALID = '6d0000c0', '030200c0', '0d0000c0'
MORE_PROCESSING, BAD_UID = '160000c0', '02005b00'


def negotiate2(*numbers, contexts='', at='00000000', count='0000', size='2400', stated=None):
    stated = len(numbers) if stated is None else stated
    return (size, struct.pack('<H', stated), '0100 0000 7f000000', 'cc' * 16, at, count, '0000',
            ''.join(numbers), contexts)


def negotiated2(dialect):
    return ('4100 0100', dialect, '0000', GUID, '01000000 00000100 00000100 00000100', TIME, ZERO8,
            '8000 4a00 00000000', INIT)


NEGOTIATED_311 = ('4100 0100 1103 0100', GUID, '01000000 00000100 00000100 00000100', TIME, ZERO8,
                  '8000 4a00 d0000000', INIT, '00' * 6,
                  '0100 2600 00000000 0100 2000 0100', '11' * 32)
PREAUTH = '0100 2600 00000000 0100 2000 0100' + 'aa' * 32


def setup2(blob, at='5800', size=None):
    size = len(unhex(blob)) if size is None else size
    return '1900 00 01 01000000 00000000', at, struct.pack('<H', size), ZERO8, blob


def setup2_answer(blob):
    return '0900 0000 4800', struct.pack('<H', len(unhex(blob))), blob


SESSION_REQUEST = unhex('81000044 20' + b'CACACACACACACACACACACACACACACACA'.hex() + '00 20'
                        + b'FGENCACACACACACACACACACACACACAAA'.hex() + '00')
FIRST_2 = smb2('0100', *setup2(SPNEGO_FIRST))
THIRD_2 = smb2('0100', *setup2(SPNEGO_THIRD), mid='02', session=SESSION)
NEGOTIATE_2 = smb2('0000', *negotiate2('0202', '1002', '0003', '0203', '1103'), mid='00')
NEGOTIATED_2 = smb2_answer('0000', '00000000', *negotiated2('0202'), mid='00')
CHALLENGED_2 = smb2_answer('0100', MORE_PROCESSING, *setup2_answer(ANSWERED), session=SESSION)
REFUSED_2 = smb2_answer('0100', FAILURE, ERROR, mid='02', session=SESSION)
FIRST_1 = smb1('73', *setup1(SPNEGO_FIRST, '00' + '0000' * 2))
THIRD_1 = smb1('73', *setup1(SPNEGO_THIRD), uid='8808')
SPEC_ANSWER = nbss('ff534d4272000000009807c80000000000000000000000000000feff00000000 11',
                    *nt1('0100'))
UTF16 = NATIVE.encode('utf-16-le')
# 32 + 1 + 8 + 2 + 271 = 314, even: no pad
CHALLENGED_1 = smb1_answer('73', MORE_PROCESSING, *setup1_answer(ANSWERED, UTF16), uid='8808')
REFUSED_1 = smb1_answer('73', FAILURE, '00 0000', uid='8808')
UPGRADE_ANY = nbss('fe534d42 4000 0000 00000000 0000 0100 01000000 00000000', ZERO8, ZERO8, ZERO8,
                    '00' * 16, *negotiated2('ff02'))
UPGRADE_2002 = UPGRADE_ANY.replace(unhex('4100 0100 ff02'), unhex('4100 0100 0202'))
MS = 'by hand, MS-SMB2 s3.3.5'
CIFS = 'by hand, MS-CIFS s2.2.4'

SMB_VECTORS = [
    # -- SMB1
    ('smb1 negotiate', TCP, SPEC_NEGOTIATE, SPEC_ANSWER, 'masscanned-original.md s24'),
    ('smb1 negotiate', UDP, SPEC_NEGOTIATE, SPEC_ANSWER, 'masscanned-original.md s24'),
    ('smb1 first NT LM 0.12 of two', TCP,
     smb1('72', dialects(b'NT LM 0.12', b'NT LM 0.12')),
     smb1_answer('72', '00000000', '11', *nt1('0000')), CIFS),
    ('smb1 nmap empty dialect', TCP, smb1('72', '00 0e00 024e54204c4d20302e313200 0200'),
     smb1_answer('72', '00000000', '11', *nt1('0000')), 'nmap 7.93 smb-os-discovery'),
    ('smb1 without extended security', TCP,
     smb1('72', dialects(b'NT LM 0.12'), flags2='0140'),
     smb1_answer('72', '00000000', '11 0000 03 3200 3200 00000100 00000100 00000000 fce30100',
                 TIME,
                 '3c00 08 3c00', '11' * 8, 'WORKGROUP\0'.encode('utf-16-le'), NAME, '0000',
                 flags2='0740'), 'MS-CIFS s2.2.4.52.2, nmap 7.93 SMBProgNeg'),
    ('smb1 SMB 2.??? and 2.002', TCP, smb1('72', dialects(b'SMB 2.002', b'SMB 2.???')),
     UPGRADE_ANY, 'by hand, MS-SMB2 s3.3.5.3.1'),
    ('smb1 SMB 2.002', TCP, smb1('72', dialects(b'LANMAN1.0', b'SMB 2.002')), UPGRADE_2002,
     'by hand, MS-SMB2 s3.3.5.3.2'),
    ('smb1 then smb2', TCP,
     smb1('72', dialects(b'SMB 2.002', b'SMB 2.???')) + NEGOTIATE_2 + FIRST_2 + THIRD_2,
     UPGRADE_ANY + NEGOTIATED_2 + CHALLENGED_2 + REFUSED_2, 'by hand, MS-SMB2 s3.3.5.3.1'),
    ('smb1 no dialect of ours', TCP, smb1('72', dialects(b'LANMAN1.0', b'LM1.2X002')),
     smb1_answer('72', '00000000', '01 ffff 0000'), 'by hand, MS-CIFS s2.2.4.52.2'),
    ('smb1 negotiate no dialects', TCP, smb1('72', '00 0000'),
     smb1_answer('72', '02000100', '00 0000'), CIFS),
    ('smb1 negotiate unknown dialect', TCP, smb1('72', '00 0400 024e5400'),
     smb1_answer('72', '00000000', '01 ffff 0000'), CIFS),
    ('smb1 negotiate no NUL', TCP, smb1('72', '00 0300 024e54'),
     smb1_answer('72', '02000100', '00 0000'), CIFS),
    ('smb1 negotiate with words', TCP, smb1('72', '01 0000 0300 024e00'),
     smb1_answer('72', '02000100', '00 0000'), CIFS),
    ('smb1 byte count too large', TCP, smb1('72', '00 3100 024e00'),
     smb1_answer('72', '02000100', '00 0000'), CIFS),
    ('smb1 words past the end', TCP, smb1('73', '0c ff00'),
     smb1_answer('73', '02000100', '00 0000'), CIFS),
    ('smb1 session setup', TCP, SPEC_NEGOTIATE + FIRST_1 + THIRD_1,
     SPEC_ANSWER + CHALLENGED_1 + REFUSED_1, 'by hand, MS-SMB s3.3.5.3'),
    ('smb1 session setup', UDP, FIRST_1, CHALLENGED_1, 'by hand, MS-SMB s3.3.5.3'),
    ('smb1 second logon', TCP, FIRST_1 + THIRD_1 + FIRST_1 + THIRD_1,
     (CHALLENGED_1 + REFUSED_1) * 2, 'by hand, MS-SMB s3.3.5.3'),
    ('smb1 first step again keeps its UID', TCP,
     FIRST_1 + smb1('73', *setup1(SPNEGO_FIRST, '00' + '0000' * 2), uid='8808'), CHALLENGED_1 * 2,
     'by hand, MS-SMB s3.3.5.3'),
    ('smb1 bare NTLMSSP, odd', TCP, smb1('73', *setup1(NEGOTIATE)),
     smb1_answer('73', MORE_PROCESSING, *setup1_answer(CHALLENGE, UTF16, '00'), uid='8808'),
     'by hand, MS-SMB s2.2.4.6.2'),
    ('smb1 ascii', TCP, smb1('73', *setup1(NEGOTIATE), flags2='0148'),
     smb1_answer('73', MORE_PROCESSING, *setup1_answer(CHALLENGE, NATIVE.encode()), uid='8808',
                 flags2='0748'), 'by hand, MS-SMB s2.2.4.6.2'),
    ('smb1 DOS error, more data', TCP, smb1('73', *setup1(NEGOTIATE), flags2='0108'),
     smb1_answer('73', '0100ea00', *setup1_answer(CHALLENGE, NATIVE.encode()), uid='8808',
                 flags2='0708'), 'by hand, MS-CIFS s2.2.2.4'),
    ('smb1 DOS error, bad password', TCP, smb1('73', PLAIN_SETUP, flags2='0100'),
     smb1_answer('73', '02000200', '00 0000', flags2='0700'), 'by hand, MS-CIFS s2.2.2.4'),
    ('smb1 plain session setup', TCP, smb1('73', PLAIN_SETUP, flags2='0140'),
     smb1_answer('73', FAILURE, '00 0000', flags2='0740'), 'by hand, MS-CIFS s2.2.4.53.1'),
    ('smb1 LANMAN session setup', TCP, smb1('73', '0a' + '00' * 20 + '0000'),
     smb1_answer('73', FAILURE, '00 0000'), 'by hand, MS-CIFS s2.2.4.53.1'),
    ('smb1 unknown UID', TCP, smb1('73', *setup1(SPNEGO_THIRD), uid='3412'),
     smb1_answer('73', BAD_UID, '00 0000', uid='3412'), 'by hand, MS-SMB s3.3.5.3'),
    ('smb1 empty blob', TCP, smb1('73', *setup1('')), smb1_answer('73', FAILURE, '00 0000'),
     CIFS),
    ('smb1 blob too long', TCP,
     smb1('73', '0c ff 00 0000 ffff 0200 0100 00000000 0900 00000000 54c00080 0200 4e54'),
     smb1_answer('73', '02000100', '00 0000'), CIFS),
    ('smb1 odd word count', TCP, smb1('73', '0b' + '00' * 22 + '0000'),
     smb1_answer('73', '02000100', '00 0000'), CIFS),
    ('smb1 tree connect', TCP, smb1('75', '04 ff000000 0000 0100 0100 00'),
     smb1_answer('75', BAD_UID, '00 0000'), 'by hand, MS-CIFS s3.3.5.2'),
    ('smb1 cancel', TCP, smb1('a4', '00 0000') + SPEC_NEGOTIATE, SPEC_ANSWER, CIFS),
    ('smb1 answer', TCP, SPEC_ANSWER, None, 'our own answer'),
    ('smb1 answer', UDP, SPEC_ANSWER, None, 'our own answer'),
    ('smb1 too short', TCP, nbss('ff534d42 72', '00' * 28), None, CIFS),
    # -- SMB2
    ('smb2 logon', TCP, NEGOTIATE_2 + FIRST_2 + THIRD_2, NEGOTIATED_2 + CHALLENGED_2 + REFUSED_2,
     MS + '.4, .5'),
    ('smb2 negotiate', UDP, NEGOTIATE_2, NEGOTIATED_2, MS + '.4'),
    ('smb2 session deleted after refusal', TCP, FIRST_2 + THIRD_2 + THIRD_2,
     CHALLENGED_2 + REFUSED_2 + smb2_answer('0100', DELETED, ERROR, mid='02', session=SESSION),
     MS + '.5'),
    ('smb2 unknown session', UDP, THIRD_2,
     smb2_answer('0100', DELETED, ERROR, mid='02', session=SESSION), MS + '.5'),
    ('smb2 first step again keeps its session', TCP,
     FIRST_2 + smb2('0100', *setup2(SPNEGO_FIRST), session=SESSION), CHALLENGED_2 * 2, MS + '.5'),
    ('smb2 bare NTLMSSP', TCP, smb2('0100', *setup2(NEGOTIATE)),
     smb2_answer('0100', MORE_PROCESSING, *setup2_answer(CHALLENGE), session=SESSION),
     'MS-NLMP s2.2.1'),
    ('smb2 NTLMSSP without unicode', TCP, smb2('0100', *setup2(NTLM + '01000000 06020000')),
     smb2_answer('0100', MORE_PROCESSING, *setup2_answer(OEM_CHALLENGE), session=SESSION),
     'MS-NLMP s2.2.1.2'),
    ('smb2 Kerberos first', TCP, smb2('0100', *setup2(KERBEROS_FIRST)),
     smb2_answer('0100', MORE_PROCESSING, *setup2_answer(REQUEST_MIC), session=SESSION),
     'RFC 4178 s3.2'),
    ('smb2 Kerberos only', TCP, smb2('0100', *setup2(KERBEROS_ONLY)),
     smb2_answer('0100', FAILURE, ERROR), 'RFC 4178 s3.2'),
    ('smb2 cut NTLMSSP', TCP, smb2('0100', *setup2(NTLM + '01000000 0602')),
     smb2_answer('0100', FAILURE, ERROR), MS + '.5'),
    ('smb2 empty blob', TCP, smb2('0100', *setup2('')), smb2_answer('0100', FAILURE, ERROR),
     MS + '.5'),
    ('smb2 blob past the end', TCP, smb2('0100', *setup2(NEGOTIATE, size=41)),
     smb2_answer('0100', INVALID, ERROR), MS + '.5'),
    ('smb2 blob inside the header', TCP, smb2('0100', *setup2(NEGOTIATE, at='4000')),
     smb2_answer('0100', INVALID, ERROR), MS + '.5'),
    ('smb2 setup too short', TCP, smb2('0100', '1900 0001'),
     smb2_answer('0100', INVALID, ERROR), MS + '.5'),
    ('smb2 setup of wrong size', TCP, smb2('0100', '1800' + '00' * 22),
     smb2_answer('0100', INVALID, ERROR), MS + '.5'),
    ('smb2 unordered dialects', TCP, smb2('0000', *negotiate2('0203', '1103', '1002')),
     smb2_answer('0000', '00000000', *negotiated2('1002')), MS + '.4'),
    ('smb2 duplicate dialects', TCP, smb2('0000', *negotiate2('0003', '0003'), charge='0100'),
     smb2_answer('0000', '00000000', *negotiated2('0003'), charge='0100'), MS + '.4'),
    ('smb2 count smaller than the list', TCP,
     smb2('0000', *negotiate2('0203', '0202', stated=1)),
     smb2_answer('0000', '00000000', *negotiated2('0203')), MS + '.4'),
    ('smb2 3.1.1', TCP,
     smb2('0000', *negotiate2('1103', contexts='00' * 2 + '0200 0400 00000000 0100 0200 00000000'
                              + PREAUTH, at='68000000', count='0200')),
     smb2_answer('0000', '00000000', *NEGOTIATED_311), MS + '.4'),
    ('smb2 3.1.1 without SHA-512', TCP,
     smb2('0000', *negotiate2('1103', contexts='0000' + PREAUTH.replace('2000 0100', '2000 0200'),
                              at='68000000', count='0100')),
     smb2_answer('0000', '00005dc0', ERROR), MS + '.4'),
    ('smb2 3.1.1 without contexts', TCP, smb2('0000', *negotiate2('1103')),
     smb2_answer('0000', INVALID, ERROR), MS + '.4'),
    ('smb2 3.1.1 contexts past the end', TCP,
     smb2('0000', *negotiate2('1103', contexts='0000' + PREAUTH.replace('aa' * 32, 'aa' * 8),
                              at='68000000', count='ffff')),
     smb2_answer('0000', INVALID, ERROR), MS + '.4'),
    ('smb2 no dialect of ours', TCP, smb2('0000', *negotiate2('ff02', '1003')),
     smb2_answer('0000', 'bb0000c0', ERROR), MS + '.4'),
    ('smb2 no dialects', TCP, smb2('0000', *negotiate2()), smb2_answer('0000', INVALID, ERROR),
     MS + '.4'),
    ('smb2 dialects past the end', TCP, smb2('0000', *negotiate2('0202', stated=2)),
     smb2_answer('0000', INVALID, ERROR), MS + '.4'),
    ('smb2 negotiate of wrong size', TCP, smb2('0000', *negotiate2('0202', size='2300')),
     smb2_answer('0000', INVALID, ERROR), MS + '.4'),
    ('smb2 negotiate too short', TCP, smb2('0000', '2400 0100'),
     smb2_answer('0000', INVALID, ERROR), MS + '.4'),
    ('smb2 tree connect', TCP, smb2('0300', '0900 0000 4800 0000'),
     smb2_answer('0300', DELETED, ERROR), MS + '.2.9'),
    ('smb2 cancel', TCP, smb2('0c00', '0400 0000') + NEGOTIATE_2, NEGOTIATED_2, MS + '.16'),
    ('smb2 compound', TCP,
     nbss(smb2_bare('0100', *(setup2(NEGOTIATE)), nxt='80000000')
           + smb2_bare('0300', '0900 0000 4800 0000', mid='02', flags='04000000',
                       session='ff' * 8)),
     smb2_answer('0100', MORE_PROCESSING, *setup2_answer(CHALLENGE), session=SESSION)
     + smb2_answer('0300', DELETED, ERROR, mid='02', session='ff' * 8), MS + '.2.7'),
    ('smb2 compound of ten', TCP,
     nbss(smb2_bare('0d00', '0400 0000 00000000', nxt='48000000') * 10),
     smb2_answer('0d00', DELETED, ERROR) * 8, 'ours: 8 of a chain'),
    ('smb2 compound past the end', TCP, smb2('0d00', '0400 0000', nxt='48000000'),
     smb2_answer('0d00', INVALID, ERROR), MS + '.2.7'),
    ('smb2 compound not aligned', TCP,
     nbss(smb2_bare('0d00', '0400 0000', nxt='44000000') * 2),
     smb2_answer('0d00', INVALID, ERROR), MS + '.2.7'),
    ('smb2 compound into itself', TCP, smb2('0d00', '0400 0000', nxt='08000000'),
     smb2_answer('0d00', INVALID, ERROR), MS + '.2.7'),
    ('smb2 compound, then an answer', TCP,
     nbss(smb2_bare('0d00', '0400 0000 00000000', nxt='48000000')
           + smb2_bare('0d00', '0400 0000', flags='01000000')),
     smb2_answer('0d00', DELETED, ERROR), MS + '.2.7'),
    ('smb2 answer', TCP, NEGOTIATED_2, None, 'our own answer'),
    ('smb2 answer', UDP, CHALLENGED_2, None, 'our own answer'),
    ('smb2 header too short', TCP, nbss('fe534d42 4000', '00' * 57), None, MS + '.2'),
    ('smb2 header of wrong size', TCP, nbss('fe534d42 4100', '00' * 70), None, MS + '.2'),
    ('smb2 encrypted', TCP, NEGOTIATE_2 + nbss('fd534d42', '00' * 70), NEGOTIATED_2,
     'MS-SMB2 s2.2.41'),
    # -- NetBIOS session service
    ('session request', TCP, SESSION_REQUEST + NEGOTIATE_2, b'\x82\0\0\0' + NEGOTIATED_2,
     'RFC 1002 s4.3.2'),
    ('session request', UDP, SESSION_REQUEST, b'\x82\0\0\0', 'RFC 1002 s4.3.2'),
    ('session request too short', TCP, unhex('81000022 20') + b'A' * 33, None,
     'RFC 1002 s4.3.2'),
    ('keep alive', TCP, NEGOTIATE_2 + unhex('85000000') + FIRST_2, NEGOTIATED_2 + CHALLENGED_2,
     'RFC 1002 s4.3.7'),
    ('positive answer', TCP, NEGOTIATE_2 + unhex('82000000') + FIRST_2, NEGOTIATED_2,
     'RFC 1002 s4.3.3'),
    ('too long', TCP, NEGOTIATE_2 + unhex('00010000') + FIRST_2, NEGOTIATED_2, 'ours: KEPT_MAX'),
    ('unknown packet type', TCP, NEGOTIATE_2 + b'\x83' + NEGOTIATE_2[1:], NEGOTIATED_2,
     'RFC 1002 s4.3.1'),
    ('empty message', TCP, NEGOTIATE_2 + unhex('00000000') + FIRST_2, NEGOTIATED_2, 'by hand'),
]
ME = b'win-rrrrrrrrrrr'                     # HOST's name in text
ONES_16 = b'11' * 16                        # 16 random octets of HOST in hex
PLAIN_BOB = b'AGJvYgBzZWNyZXQ='             # NUL bob NUL secret
BOB, SECRET = b'Ym9i', b'c2VjcmV0'
LOGIN_USER, LOGIN_PASSWORD = b'VXNlcm5hbWU6', b'UGFzc3dvcmQ6'
IMAP_CAN = b'CAPABILITY IMAP4rev1 LITERAL+ ID AUTH=PLAIN AUTH=LOGIN'
IMAP_NO = b' NO [AUTHENTICATIONFAILED] Authentication failed\r\n'
POP3_NO = b'-ERR [AUTH] Authentication failed\r\n'
POP3_OTHER = b'-ERR Unknown command, or not before a login\r\n'
SIEVE_CAN = (b'"IMPLEMENTATION" "sieve"\r\n"SASL" "PLAIN LOGIN"\r\n"SIEVE" "fileinto"\r\n'
             b'"VERSION" "1.0"\r\nOK\r\n')
SIEVE_NO = b'NO "Authentication failed"\r\n'
EHLO_ANSWER = (b'250-%s\r\n250-PIPELINING\r\n250-SIZE 10485760\r\n250-AUTH PLAIN LOGIN\r\n'
               b'250-ENHANCEDSTATUSCODES\r\n250 8BITMIME\r\n' % ME)
SMTP_NO = b'535 5.7.8 Authentication failed\r\n'
SIP_HEAD = (b'%s sip:100@192.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.0.0:5060;branch=z9hG4bK1\r\n'
            b'From: <sip:a@b>;tag=1\r\nTo: <sip:100@192.0.0.1>\r\nCall-ID: 50000\r\n'
            b'CSeq: 42 %s\r\n')
SIP_ANSWER = (b'SIP/2.0 %s\r\nVia: SIP/2.0/UDP 192.0.0.0:5060;branch=z9hG4bK1\r\n'
              b'From: <sip:a@b>;tag=1\r\nTo: <sip:100@192.0.0.1>;tag=11111111\r\n'
              b'Call-ID: 50000\r\nCSeq: 42 %s\r\n%sContent-Length: 0\r\n\r\n')
SIP_LOGIN = b'WWW-Authenticate: Digest realm="%s", nonce="1111111111111111"\r\n' % ME
RTSP_CAN = (b'Public: OPTIONS, DESCRIBE, SETUP, PLAY, PAUSE, TEARDOWN, ANNOUNCE, RECORD, '
            b'GET_PARAMETER, SET_PARAMETER\r\n\r\n')
RTSP_NO = (b'RTSP/1.0 401 Unauthorized\r\n%%sWWW-Authenticate: Digest realm="%s", nonce="%s"\r\n'
           b'WWW-Authenticate: Basic realm="%s"\r\n\r\n' % (ME, ONES_16, ME))
XMPP_HELLO = b"<?xml version='1.0'?><stream:stream to='%s' xmlns='jabber:client' version='1.0'>"
XMPP_CAN = (b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' "
            b"xmlns:stream='http://etherx.jabber.org/streams' id='1111111111111111' from='%s' "
            b"version='1.0'><stream:features><mechanisms "
            b"xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms>"
            b"</stream:features>")
XMPP_NO = b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>"
XMPP_NO_TLS = b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:stream>"
XMPP_ERROR = (b"<stream:error><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"
              b"</stream:error></stream:stream>")
CHARS = bytes(range(32, 127))
CHARGEN = b''.join((CHARS * 2)[at:at + 72] + b'\r\n' for at in range(95))
QUOTE = b'Whoever listens first learns most.\r\n'
DAY = b'2026-11-21 01:46:41 UTC\r\n'
SECONDS = unhex('eeab7681')                 # 1795225601 + 2208988800
DISTCC_JOB = (b'DIST00000001ARGC00000003ARGV00000002ccARGV00000002-cARGV00000003x.c'
              b'DOTI00000005int x')
DISTCC_FAILED = b'DONE00000001STAT00000100SERR00000000SOUT00000000DOTO00000000'
SVN_GREETING = b'( success ( 2 2 ( ) ( edit-pipeline svndiff1 ) ) ) '
SVN_CLIENT = b'( 2 ( edit-pipeline svndiff1 ) 18:svn://192.0.0.1/r) 10:SVN/1.14.2 ( ) ) '
SVN_LOGINS = b'( success ( ( CRAM-MD5 ) 15:%s ) ) ' % ME
NATS_NO = b"-ERR 'Authorization Violation'\r\n"
TELNET_OFFER = unhex('fffb01 fffb03')
PJL = b'\x1b%-12345X'
STOMP_NO = b'ERROR\nversion:1.2\nmessage:Bad credentials\n\n\0'
TOR_INFO = (b'250-PROTOCOLINFO 1\r\n250-AUTH METHODS=HASHEDPASSWORD\r\n'
            b'250-VERSION Tor="0.4.8.0"\r\n250 OK\r\n')

MAIL_VECTORS = [
    ('imap capability@80', TCP, b'a001 CAPABILITY\r\n',
     b'* %s\r\na001 OK CAPABILITY completed\r\n' % IMAP_CAN, 'RFC 9051 s6.1.1'),
    ('imap verbs', TCP, b'1 noop\r\n2 ID NIL\r\n3 SELECT inbox\r\n4 STARTTLS\n5 logout\r\n6 noop\n',
     b'1 OK NOOP completed\r\n* ID NIL\r\n2 OK ID completed\r\n'
     b'3 BAD Unknown command, or not before a login\r\n'
     b'4 BAD Unknown command, or not before a login\r\n'
     b'* BYE Logging out\r\n5 OK LOGOUT completed\r\n', 'RFC 9051 s6'),
    ('imap login', TCP, b'a LOGIN "bob" secret\r\n', b'a' + IMAP_NO, 'RFC 9051 s6.2.3'),
    ('imap literals', TCP, b'a LOGIN {3}\r\nbob {6+}\r\nsecret\r\n', b'+ Go ahead\r\na' + IMAP_NO,
     'RFC 9051 s4.3'),
    ('imap literals without end', TCP, b'a LOGIN {3}\r\n' + b'x' * 2000 + b'{3}\r\n'
     + b'y' * 2000 + b'{1}\r\n1 NOOP\r\n', b'+ Go ahead\r\n' * 2, 'ours: TEXT_MAX'),
    ('imap plain', TCP, b'a AUTHENTICATE PLAIN\r\n%s\r\n' % PLAIN_BOB, b'+ \r\na' + IMAP_NO,
     'RFC 9051 s6.2.2'),
    ('imap plain at once', TCP, b'a AUTHENTICATE plain %s\r\n' % PLAIN_BOB, b'a' + IMAP_NO,
     'RFC 4959 s3'),
    ('imap cram-md5', TCP, b'a AUTHENTICATE CRAM-MD5\r\n', b'a' + IMAP_NO, 'RFC 9051 s6.2.2'),
    ('imap no command', TCP, b'\r\n', b'* BAD No command\r\n', 'by hand'),
    ('imap answer@80', TCP, b'a001 OK CAPABILITY completed', None, 'without an end'),
    ('nntp reader@80', TCP, b'MODE READER\r\nGROUP a.b\r\nquit\r\n',
     b'200 Reader mode\r\n480 Authentication required\r\n205 Bye\r\n', 'RFC 3977 s5.3'),
    ('nntp verbs', TCP, b'date\r\nhelp\r\nxyz\r\nCAPABILITIES\r\n',
     b'111 20261121014641\r\n100 Help follows\r\n.\r\n500 Unknown command\r\n'
     b'101 Capabilities\r\nVERSION 2\r\nREADER\r\nAUTHINFO USER\r\n.\r\n', 'RFC 3977 s5.2, s7'),
    ('nntp login', TCP, b'AUTHINFO USER bob\r\nAUTHINFO PASS secret\r\n',
     b'381 Password required\r\n481 Authentication failed\r\n', 'RFC 4643 s2.3'),
    ('nntp list elsewhere@80', TCP, b'LIST\r\n', None, 'a shared word'),
    ('pop3 capa@80', TCP, b'CAPA\r\nSTLS\r\n',
     b'+OK\r\nUSER\r\nSASL PLAIN LOGIN\r\nRESP-CODES\r\n.\r\n' + POP3_OTHER, 'RFC 2449 s5'),
    ('pop3 login', TCP, b'USER bob\r\nPASS secret\r\nSTAT\r\nQUIT\r\n',
     b'+OK\r\n' + POP3_NO + POP3_OTHER + b'+OK Bye\r\n', 'RFC 1939 s7'),
    ('pop3 password first', TCP, b'PASS secret\r\n', POP3_NO, 'RFC 1939 s7'),
    ('pop3 apop', TCP, b'APOP bob c4c9334bac560ecc979e58001b3e22fb\r\n', POP3_NO, 'RFC 1939 s7'),
    ('pop3 plain', TCP, b'AUTH PLAIN\r\n%s\r\n' % PLAIN_BOB, b'+ \r\n' + POP3_NO, 'RFC 5034 s4'),
    ('pop3 login mechanism', TCP, b'AUTH LOGIN\r\n%s\r\n%s\r\n' % (BOB, SECRET),
     b'+ %s\r\n+ %s\r\n' % (LOGIN_USER, LOGIN_PASSWORD) + POP3_NO, 'draft-murchison-sasl-login'),
    ('pop3 not base64', TCP, b'AUTH LOGIN =\r\n', POP3_NO, 'by hand'),
    ('pop3 stat elsewhere@80', TCP, b'STAT\r\n', None, 'a shared word'),
    ('sieve scripts@80', TCP, b'LISTSCRIPTS\r\n',
     b'NO "Unknown command, or not before a login"\r\n', 'RFC 5804 s2.7'),
    ('sieve capability', TCP, b'CAPABILITY\r\nNOOP\r\nLOGOUT\r\n', SIEVE_CAN + b'OK\r\nOK\r\n',
     'RFC 5804 s2.4'),
    ('sieve login', TCP, b'AUTHENTICATE "PLAIN" "%s"\r\n' % PLAIN_BOB, SIEVE_NO, 'RFC 5804 s2.1'),
    ('sieve literal', TCP, b'AUTHENTICATE "PLAIN" {16+}\r\n%s\r\n' % PLAIN_BOB, SIEVE_NO,
     'RFC 5804 s2.1'),
    ('sieve steps', TCP, b'AUTHENTICATE "LOGIN"\r\n"%s"\r\n{8+}\r\n%s\r\n' % (BOB, SECRET),
     b'"%s"\r\n"%s"\r\n' % (LOGIN_USER, LOGIN_PASSWORD) + SIEVE_NO, 'RFC 5804 s2.1'),
    ('sieve logout elsewhere@80', TCP, b'LOGOUT\r\n', None, 'a shared word'),
    ('smtp ehlo@80', TCP, b'ehlo me\r\n', EHLO_ANSWER, 'RFC 5321 s4.1.1.1'),
    ('smtp mail', TCP, b'HELO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nRSET\r\nNOOP\r\n'
     b'VRFY bob\r\nEXPN x\r\nSTARTTLS\r\n\r\nHELP\r\nQUIT\r\nNOOP\r\n',
     b'250 %s\r\n250 2.1.0 Ok\r\n554 5.7.1 Relay access denied\r\n503 5.5.1 No valid recipients\r\n'
     b'250 2.0.0 Ok\r\n250 2.0.0 Ok\r\n252 2.0.0 Cannot verify\r\n502 5.5.1 Not implemented\r\n'
     b'502 5.5.1 Not implemented\r\n500 5.5.2 Unknown command\r\n'
     b'214 2.0.0 EHLO HELO MAIL RCPT DATA RSET VRFY AUTH NOOP QUIT\r\n221 2.0.0 Bye\r\n' % ME,
     'RFC 5321 s4.1.1'),
    ('smtp lmtp', TCP, b'LHLO me\r\n', EHLO_ANSWER, 'RFC 2033 s4.1'),
    ('smtp plain', TCP, b'AUTH PLAIN %s\r\n' % PLAIN_BOB, SMTP_NO, 'RFC 4954 s4'),
    ('smtp login', TCP, b'AUTH LOGIN\r\n%s\r\n%s\r\n' % (BOB, SECRET),
     b'334 %s\r\n334 %s\r\n' % (LOGIN_USER, LOGIN_PASSWORD) + SMTP_NO, 'RFC 4954 s4'),
    ('smtp login at once', TCP, b'AUTH LOGIN %s\r\n%s\r\n' % (BOB, SECRET),
     b'334 %s\r\n' % LOGIN_PASSWORD + SMTP_NO, 'RFC 4954 s4'),
    ('smtp cancel', TCP, b'AUTH PLAIN\r\n*\r\n', b'334 \r\n' + SMTP_NO, 'RFC 4954 s4'),
    ('smtp line too long', TCP, b'EHLO ' + b'x' * 2048 + b'\r\nNOOP\r\n', None, 'ours: TEXT_MAX'),
    ('smtp data elsewhere@80', TCP, b'DATA\r\n', None, 'a shared word'),
]

FILE_VECTORS = [
    ('distcc job', TCP, DISTCC_JOB, DISTCC_FAILED, 'distcc protocol 1'),
    ('distcc no source', TCP, b'DIST00000002ARGC00000000DOTI00000000', DISTCC_FAILED,
     'distcc protocol 2'),
    ('distcc cut short', TCP, DISTCC_JOB[:-1], None, 'by hand'),
    ('distcc no token', TCP, DISTCC_JOB.replace(b'ARGV', b'argv'), None, 'by hand'),
    ('distcc many words', TCP, b'DIST00000001' + b'ARGV00000000' * 300 + b'DOTI00000000', None,
     'ours: DISTCC_TOKENS'),
    ('ftp login@80', TCP, b'USER bob\r\nPASS secret\r\nSYST\r\nQUIT\r\nNOOP\r\n',
     b'331 Password required\r\n530 Login incorrect\r\n215 UNIX Type: L8\r\n221 Goodbye\r\n',
     'RFC 959 s5.4'),
    ('ftp verbs', TCP, b'FEAT\r\nauth TLS\r\nPWD\r\nLIST\r\nHELP\r\nNOOP\r\nx y\r\n\r\n',
     b'211-Features:\r\n UTF8\r\n211 End\r\n502 Not implemented\r\n530 Log in first\r\n'
     b'530 Log in first\r\n214 USER PASS QUIT SYST FEAT NOOP\r\n200 OK\r\n'
     b'500 Unknown command\r\n500 Unknown command\r\n', 'RFC 959 s4.2, RFC 2389 s3'),
    ('ftp list elsewhere@80', TCP, b'LIST\r\n', None, 'a shared word'),
    ('git @80', TCP, b'0032git-upload-pack /project.git\0host=myserver.com\0'.replace(
        b'0032', b'0033'), b'0015ERR access denied', 'gitprotocol-pack'),
    ('git cut short', TCP, b'0033git-upload-pack /project.git\0host=myserver.com', None, 'by hand'),
    ('git no length', TCP, b'00zzgit-upload-pack /project.git\0host=myserver.com\0', None,
     'by hand'),
    ('gopher root', TCP, b'\r\n', b'iNothing here\t\terror.host\t1\r\n.\r\n', 'RFC 1436 s3.8'),
    ('gopher selector', TCP, b'/x\r\n', b'3No such selector\t\terror.host\t1\r\n.\r\n',
     'RFC 1436 s3.6'),
    ('gopher elsewhere@81', TCP, b'/x\r\n', None, 'own port only'),
    ('rsync list', TCP, b'@RSYNCD: 32.0 sha512 md5\n#list\n',
     b'@RSYNCD: 31.0\nfiles          \t\n@RSYNCD: EXIT\n', 'rsync 3.2.7'),
    ('rsync module@80', TCP, b'@RSYNCD: 30.0\nfiles\nbob 0123456789abcdef\n',
     b'@RSYNCD: 31.0\n@RSYNCD: AUTHREQD EREREREREREREREREREREQ\n'
     b'@ERROR: auth failed on module files\n', 'rsync 3.2.7'),
    ('rsync the same version', TCP, b'@RSYNCD: 31.0\nnope\n',
     b"@RSYNCD: 31.0\n@ERROR: Unknown module 'nope'\n", 'rsync 3.1.3'),
    ('rsync answer@80', TCP, b'@RSYNCD: 31.0\n', None, 'our own answer'),
    ('svn login@80', TCP, SVN_CLIENT + b'( CRAM-MD5 ( ) ) 36:bob 0123456789abcdef0123456789abcdef ',
     SVN_GREETING + SVN_LOGINS + b'( step ( 34:<1111111111111111@%s> ) ) ' % ME
     + b'( failure ( 20:Authorization failed ) ) ', 'ra_svn protocol s2'),
    ('svn cut short', TCP, SVN_CLIENT[:-2], None, 'by hand'),
    ('svn no end', TCP, b'( 2 ( ' + b'( ' * 70, None, 'ours: SVN_TOKENS'),
]

CHAT_VECTORS = [
    ('asterisk login@80', TCP, b'Action: Login\r\nActionID: 7\r\nUsername: bob\r\nSecret: x\r\n\r\n',
     b'Response: Error\r\nActionID: 7\r\nMessage: Authentication failed\r\n\r\n', 'AMI'),
    ('asterisk ping', TCP, b'action: Ping\r\n\r\nAction: logoff\r\n\r\n',
     b'Response: Error\r\nMessage: Permission denied\r\n\r\n'
     b'Response: Goodbye\r\nMessage: Goodbye\r\n\r\n', 'AMI'),
    ('asterisk no end', TCP, b'Action: Login\r\nSecret: x\r\n', None, 'by hand'),
    ('irc registration@80', TCP, b'CAP LS 302\r\nNICK bob\r\nUSER bob 0 * :Bob\r\nJOIN #x\r\n',
     b':%s CAP * LS :\r\n:%s 464 bob :Password incorrect\r\nERROR :Closing link\r\n' % (ME, ME),
     'RFC 2812 s3.1'),
    ('irc user first', TCP, b'PASS secret\r\nUSER bob 0 * :Bob\r\n\r\nNICK :bob\r\n',
     b':%s 464 bob :Password incorrect\r\nERROR :Closing link\r\n' % ME, 'RFC 2812 s3.1'),
    ('irc verbs', TCP, b'PING :x\r\nPONG\r\nLIST\r\nCAP REQ :sasl\r\nCAP END\r\nQUIT\r\n',
     b':%s PONG %s :x\r\n:%s 451 * :You have not registered\r\n:%s CAP * NAK :sasl\r\n'
     b'ERROR :Closing link\r\n' % (ME, ME, ME, ME), 'RFC 2812 s3.7'),
    ('irc list elsewhere@80', TCP, b'LIST\r\n', None, 'a shared word'),
    ('rtsp options', TCP, b'OPTIONS rtsp://192.0.0.1/ RTSP/1.0\r\nCSeq: 1\r\n\r\n',
     b'RTSP/1.0 200 OK\r\nCSeq: 1\r\n' + RTSP_CAN, 'RFC 2326 s10.1'),
    ('rtsp star@80', TCP, b'OPTIONS * RTSP/1.0\r\n\r\n', b'RTSP/1.0 200 OK\r\n' + RTSP_CAN,
     'curl 7.88'),
    ('rtsp nmap@80', TCP, b'OPTIONS / RTSP/1.0\r\n\r\n', b'RTSP/1.0 200 OK\r\n' + RTSP_CAN,
     'nmap RTSPRequest'),
    ('rtsp describe@80', TCP, b'DESCRIBE rtsp://192.0.0.1/ch1 RTSP/1.0\r\nCSeq: 2\r\n'
     b'Authorization: Basic Ym9iOnNlY3JldA==\r\n\r\n', RTSP_NO % b'CSeq: 2\r\n', 'RFC 2326 s10.2'),
    ('rtsp body', TCP, b'ANNOUNCE rtsp://192.0.0.1/x RTSP/1.0\r\nContent-Length: 5\r\n\r\nv=0\r\n'
     b'OPTIONS * RTSP/1.0\r\n\r\n', RTSP_NO % b'' + b'RTSP/1.0 200 OK\r\n' + RTSP_CAN,
     'RFC 2326 s12.14'),
    ('rtsp no end', TCP, b'OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n', None, 'by hand'),
    ('sip options@80', UDP, SIP_HEAD % (b'OPTIONS', b'OPTIONS') + b'\r\n',
     SIP_ANSWER % (b'200 OK', b'OPTIONS', b''), 'RFC 3261 s11.2'),
    ('sip options', TCP, SIP_HEAD % (b'OPTIONS', b'OPTIONS') + b'\r\n',
     SIP_ANSWER % (b'200 OK', b'OPTIONS', b''), 'RFC 3261 s11.2'),
    ('sip invite', TCP, SIP_HEAD % (b'INVITE', b'INVITE') + b'l: 4\r\n\r\nv=0\n',
     SIP_ANSWER % (b'401 Unauthorized', b'INVITE', SIP_LOGIN), 'RFC 3261 s22.2'),
    ('sip register', UDP, SIP_HEAD % (b'REGISTER', b'REGISTER') + b'\r\n',
     SIP_ANSWER % (b'401 Unauthorized', b'REGISTER', SIP_LOGIN), 'RFC 3261 s10.3'),
    ('sip login', TCP, SIP_HEAD % (b'REGISTER', b'REGISTER')
     + b'Authorization: Digest username="bob", response="00"\r\n\r\n',
     SIP_ANSWER % (b'403 Forbidden', b'REGISTER', b''), 'RFC 3261 s22.2'),
    ('sip bye', TCP, SIP_HEAD % (b'BYE', b'BYE') + b'\r\n',
     SIP_ANSWER % (b'481 Call/Transaction Does Not Exist', b'BYE', b''), 'RFC 3261 s15.1.2'),
    ('sip tagged', TCP, SIP_HEAD.replace(b'0.1>', b'0.1>;tag=11111111') % (b'BYE', b'BYE') + b'\r\n',
     SIP_ANSWER % (b'481 Call/Transaction Does Not Exist', b'BYE', b''), 'RFC 3261 s8.2.6.2'),
    ('sip ack', TCP, SIP_HEAD % (b'ACK', b'ACK') + b'\r\n' + SIP_HEAD % (b'OPTIONS', b'OPTIONS')
     + b'\r\n', SIP_ANSWER % (b'200 OK', b'OPTIONS', b''), 'RFC 3261 s17'),
    ('sip few fields', UDP, b'OPTIONS sip:nm SIP/2.0\r\nVia: SIP/2.0/UDP nm\r\n\r\n', None,
     'RFC 3261 s8.2.6.2'),
    ('sip other version', UDP, (SIP_HEAD % (b'OPTIONS', b'OPTIONS')).replace(
        b' SIP/2.0\r\nVia', b' SIP/3.0\r\nVia') + b'\r\n', None, 'RFC 3261 s7.1'),
    ('sip answer', UDP, SIP_ANSWER % (b'200 OK', b'OPTIONS', b''), None, 'our own answer'),
    ('teamspeak verbs', TCP, b'version\n\nuse 1\nlogin bob secret\nclientlist\nxyz\nquit\n',
     b'version=3.13 build=0 platform=Linux\n\rerror id=0 msg=ok\n\rerror id=0 msg=ok\n\r'
     b'error id=520 msg=invalid\\sloginname\\sor\\spassword\n\r'
     b'error id=2568 msg=insufficient\\sclient\\spermissions\n\r'
     b'error id=256 msg=command\\snot\\sfound\n\rerror id=0 msg=ok\n\r', 'ServerQuery manual'),
    ('teamspeak login elsewhere@80', TCP, b'login bob secret\n', None, 'a shared word'),
    ('xmpp stream@80', TCP, XMPP_HELLO % b'example.org', XMPP_CAN % b'example.org',
     'RFC 6120 s4.7'),
    ('xmpp no name', TCP, b'<stream:stream>', XMPP_CAN % ME, 'RFC 6120 s4.7'),
    ('xmpp login', TCP, XMPP_HELLO % b'x' + b"<auth mechanism='PLAIN'>%s</auth> </stream:stream>"
     % PLAIN_BOB, XMPP_CAN % b'x' + XMPP_NO + b'</stream:stream>', 'RFC 6120 s6.4'),
    ('xmpp empty login', TCP, XMPP_HELLO % b'x' + b"<auth mechanism='PLAIN'/>",
     XMPP_CAN % b'x' + XMPP_NO, 'RFC 6120 s6.4.2'),
    ('xmpp starttls', TCP, XMPP_HELLO % b'x' + b'<starttls/>', XMPP_CAN % b'x' + XMPP_NO_TLS,
     'RFC 6120 s5.4.2.2'),
    ('xmpp stanza', TCP, XMPP_HELLO % b'x' + b"<iq type='get'>", XMPP_CAN % b'x' + XMPP_ERROR,
     'RFC 6120 s4.9.3.12'),
    ('xmpp other xml', TCP, b"<?xml version='1.0'?><soap>", None, 'by hand'),
    ('xmpp answer', TCP, XMPP_CAN % b'x', None, 'our own answer'),
]

SMALL_VECTORS = [
    ('bandwidth-test login', TCP, unhex('01010100 0080', '00' * 10, 'aa' * 16) + b'admin'.ljust(32, b'\0'),
     b'\2\0\0\0' + b'\x11' * 16 + bytes(4), 'btest-opensource, README'),
    ('bandwidth-test cut short', TCP, unhex('01010100 0080', '00' * 9), None, 'by hand'),
    ('bandwidth-test other', TCP, unhex('02', '00' * 15), None, 'by hand'),
    ('chargen', TCP, b'x\n', CHARGEN, 'RFC 864'), ('chargen', UDP, b'x' * 100, CHARGEN[:100], 'RFC 864'),
    ('chargen elsewhere@80', TCP, b'~', None, 'own port only'),
    ('daytime', TCP, b'\r\n', DAY, 'RFC 867'), ('daytime', UDP, b'x' * 40, DAY, 'RFC 867'),
    ('daytime short', UDP, b'x', b'2', 'no longer than the request'),
    ('daytime elsewhere@80', TCP, b'~', None, 'own port only'),
    ('echo', TCP, b'~abc\n', b'~abc\n', 'RFC 862'), ('echo', UDP, b'~abc', b'~abc', 'RFC 862'),
    ('echo elsewhere@80', TCP, b'~abc', None, 'own port only'),
    ('finger', TCP, b'/W bob\r\n', b'No such user\r\n', 'RFC 1288 s2.3'),
    ('finger all', TCP, b'\r\n', b'No one logged on\r\n', 'RFC 1288 s2.3'),
    ('finger user', TCP, b'user\r\nx\r\n', b'No such user\r\n', 'a name that is a verb elsewhere'),
    ('finger elsewhere@80', TCP, b'bob\r\n', None, 'own port only'),
    ('ident', TCP, b'6193, 23\r\n', b'6193, 23 : ERROR : NO-USER\r\n', 'RFC 1413 s4'),
    ('ident no ports', TCP, b'x\r\n', b'0, 0 : ERROR : INVALID-PORT\r\n', 'RFC 1413 s4'),
    ('ident elsewhere@80', TCP, b'6193, 23\r\n', None, 'own port only'),
    ('qotd', TCP, b'\r\n', QUOTE, 'RFC 865'), ('qotd', UDP, b'xy', QUOTE[:2], 'RFC 865'),
    ('qotd elsewhere@80', TCP, b'~', None, 'own port only'),
    ('tcpmux', TCP, b'sgi_sysadm\r\n', b'-Service not available\r\n', 'RFC 1078'),
    ('tcpmux help', TCP, b'HELP\r\n', b'tcpmux\r\n', 'RFC 1078'),
    ('tcpmux elsewhere@80', TCP, b'sgi\r\n', None, 'own port only'),
    ('time', TCP, b'\n', SECONDS, 'RFC 868'), ('time', UDP, b'1234', SECONDS, 'RFC 868'),
    ('time elsewhere@80', TCP, b'~', None, 'own port only'),
    ('whois', TCP, b'192.0.0.1\r\n', b'No match.\r\n', 'RFC 3912'),
    ('whois elsewhere@80', TCP, b'192.0.0.1\r\n', None, 'own port only'),
]

GREETINGS = [                               # port, what is said, whether that is all
    *((port, b'220 FTP server ready\r\n', False) for port in (21, 2121)),
    *((port, b'SSH-2.0-1\r\n', False) for port in (22, 2222)),
    *((port, TELNET_OFFER + b'\r\nlogin: ', False) for port in (23, 2323)),
    *((port, b'220 %s ESMTP\r\n' % ME, False) for port in (25, 587, 2525)),
    (110, b'+OK POP3 server ready\r\n', False),
    (143, b'* OK [%s] Server ready\r\n' % IMAP_CAN, False),
    (119, b'200 %s NNTP service ready\r\n' % ME, False),
    *((port, b':%s NOTICE * :*** Looking up your hostname\r\n' % ME, False) for port in (194, 6667)),
    (873, b'@RSYNCD: 31.0\n', False),
    (2628, b'220 %s dictd <auth.mime> <11111111@%s>\r\n' % (ME, ME), False),
    (3690, SVN_GREETING, False), (4190, SIEVE_CAN, False),
    (4222, b'INFO {"server_id":"%s","version":"2.10.0","proto":1,"host":"0.0.0.0","port":4222,'
     b'"headers":true,"max_payload":1048576,"auth_required":true}\r\n' % ONES_16, False),
    (4949, b'# munin node at %s\n' % ME, False), (5038, b'Asterisk Call Manager/5.0.2\r\n', False),
    (6600, b'OK MPD 0.23.5\n', False), (7634, b'|/dev/sda|DISK|30|C|', True),
    (2947, b'{"class":"VERSION","release":"3.25","rev":"3.25","proto_major":3,"proto_minor":15}\r\n',
     False), (10011, b'TS3\n\rWelcome to the query interface.\n\r', False),
    (13, DAY, True), (17, QUOTE, True), (19, CHARGEN, True), (37, SECONDS, True),
    (2000, b'\1\0\0\0', False),
]
LOGIN = dict(user=b'bob', password=b'secret')
NOTED = [                                   # name, request, fields of the notes
    ('imap', b'a LOGIN "bob" secret\r\na LOGIN {3}\r\nbob {6}\r\nsecret\r\n', [LOGIN] * 2),
    ('imap', b'a AUTHENTICATE PLAIN %s\r\na AUTHENTICATE LOGIN\r\n%s\r\n%s\r\n' % (
        PLAIN_BOB, BOB, SECRET), [LOGIN] * 2),
    ('imap', b'a AUTHENTICATE PLAIN\r\n*\r\n', []),
    ('nntp', b'AUTHINFO USER bob\r\nAUTHINFO PASS secret\r\n', [LOGIN]),
    ('pop3', b'USER bob\r\nPASS secret\r\nPASS secret\r\n', [LOGIN] * 2),
    ('pop3', b'APOP bob 00ff\r\n', [dict(user=b'bob', digest=b'00ff')]),
    ('sieve', b'AUTHENTICATE "PLAIN" {16+}\r\n%s\r\n' % PLAIN_BOB, [LOGIN]),
    ('smtp', b'AUTH LOGIN %s\r\n%s\r\n' % (BOB, SECRET), [LOGIN]),
    ('distcc', DISTCC_JOB, [dict(words=b'cc -c x.c')]),
    ('ftp', b'user bob\r\npass secret\r\n', [LOGIN]),
    ('rsync', b'@RSYNCD: 30.0\nfiles\nbob 00ff\n', [dict(user=b'bob', digest=b'00ff')]),
    ('svn', SVN_CLIENT + b'( CRAM-MD5 ( ) ) 8:bob 00ff ', [dict(user=b'bob', digest=b'00ff')]),
    ('asterisk', b'Action: Login\r\nUsername: bob\r\nSecret: secret\r\n\r\n', [LOGIN]),
    ('irc', b'PASS secret\r\nNICK bob\r\nUSER x\r\n', [LOGIN]),
    ('rtsp', b'DESCRIBE rtsp://x RTSP/1.0\r\nAuthorization: Basic Ym9iOnNlY3JldA==\r\n\r\n', [LOGIN]),
    ('sip', SIP_HEAD % (b'INVITE', b'INVITE') + b'Authorization: Digest username="bob"\r\n\r\n',
     [dict(user=b'bob', digest=b'username="bob"')]),
    ('teamspeak', b'login bob secret\n', [LOGIN]),
    ('xmpp', XMPP_HELLO % b'x' + b"<auth mechanism='PLAIN'>%s</auth>" % PLAIN_BOB, [LOGIN]),
    ('bandwidth-test', b'\1' * 16 + bytes(16) + b'bob'.ljust(32, b'\0'),
     [dict(user=b'bob', digest='00' * 16)]),
    ('dict', b'AUTH bob 00ff\r\n', [dict(user=b'bob', password=b'00ff')]),
    ('mpd', b'password "secret"\n', [dict(user=b'', password=b'secret')]),
    ('nats', b'CONNECT {"user":"bob","pass":"secret"}\r\n', [LOGIN]),
    ('stomp', b'CONNECT\nlogin:bob\npasscode:secret\n\n\0', [LOGIN]),
    ('telnet', b'bob\nsecret\n', [LOGIN]),
    ('tor-control', b'AUTHENTICATE "secret"\r\n', [dict(user=b'', password=b'secret')]),
]

TEXT_VECTORS = [
    ('beanstalkd verbs', TCP, b'list-tubes\r\nstats\r\nuse x\r\nwatch x\r\npeek 1\r\nx\r\nquit\r\n',
     b'OK 14\r\n---\n- default\n\r\nOK 26\r\n---\ncurrent-jobs-ready: 0\n\r\nUSING x\r\n'
     b'WATCHING 1\r\nNOT_FOUND\r\nUNKNOWN_COMMAND\r\n', 'protocol.txt'),
    ('beanstalkd put', TCP, b'put 1 0 60 4\r\nuse\n\r\nreserve\r\n', b'DRAINING\r\nTIMED_OUT\r\n',
     'protocol.txt'),
    ('beanstalkd put of much', TCP, b'put 1 0 60 65536\r\n', b'JOB_TOO_BIG\r\n', 'protocol.txt'),
    ('beanstalkd put of less than nothing', TCP, b'put 1 0 60 -3\r\n', b'JOB_TOO_BIG\r\n',
     'by hand'),
    ('beanstalkd put of nothing', TCP, b'put 1 0\r\nuse x\r\n', None, 'by hand'),
    ('clamd ping@80', TCP, b'zPING\0zPING\0', b'PONG\0', 'clamd(8)'),
    ('clamd version@80', TCP, b'nVERSION\n', b'Scanner 1.0\n', 'clamd(8)'),
    ('clamd bare', TCP, b'PING\n', b'PONG\n', 'clamd(8)'),
    ('clamd scan', TCP, b'SCAN /etc\n', b'UNKNOWN COMMAND\n', 'clamd(8)'),
    ('clamd cut short', TCP, b'zPING', None, 'by hand'),
    ('clamd bare elsewhere@80', TCP, b'RELOAD\n', None, 'a shared word'),
    ('dict define@80', TCP, b'DEFINE * word\r\nQUIT\r\n', b'554 No databases present\r\n221 bye\r\n',
     'RFC 2229 s3.2'),
    ('dict verbs', TCP, b'CLIENT x\r\nSTATUS\r\nHELP\r\nOPTION MIME\r\nAUTH bob 00\r\nx\r\n',
     b'250 ok\r\n210 up\r\n113 help\r\n.\r\n250 ok\r\n250 ok\r\n531 Access denied\r\n'
     b'500 Unknown command\r\n', 'RFC 2229 s3'),
    ('dict show elsewhere@80', TCP, b'SHOW DB\r\n', None, 'a shared word'),
    ('gearman @80', TCP, b'workers\n', b'.\n', 'gearman.org/protocol'),
    ('gearman verbs', TCP, b'status\nversion\nmaxqueue x\nx\n',
     b'.\nOK 1.1\nOK\nERR unknown_command Unknown+command\n', 'gearman.org/protocol'),
    ('gearman status elsewhere@80', TCP, b'status\n', None, 'a shared word'),
    ('gearman-job echo@80', TCP, unhex('00524551 00000010 00000002') + b'hi',
     unhex('00524553 00000011 00000002') + b'hi', 'gearman.org/protocol'),
    ('gearman-job other', TCP, unhex('00524551 00000001 00000000'),
     unhex('00524553 00000013 0000001a') + b'ERR_PERMISSION\0Not allowed', 'gearman.org/protocol'),
    ('gearman-job too long', TCP, unhex('00524551 00000001 00010000') + bytes(65536), None,
     'ours: MESSAGE_MAX'),
    ('gpsd watch@80', TCP, b'?WATCH={"enable":true,"json":true};\r\n',
     b'{"class":"DEVICES","devices":[]}\r\n', 'gpsd_json(5)'),
    ('gpsd version', TCP, b'?VERSION;\n', b'{"class":"VERSION","release":"3.25","rev":"3.25",'
     b'"proto_major":3,"proto_minor":15}\r\n', 'gpsd_json(5)'),
    ('gpsd no end', TCP, b'?WATCH={"enable":true}', None, 'by hand'),
    ('hddtemp', TCP, b'~\n', b'|/dev/sda|DISK|30|C|', 'hddtemp(8)'),
    ('hddtemp elsewhere@80', TCP, b'~', None, 'own port only'),
    ('icap options@80', TCP, b'OPTIONS icap://192.0.0.1/x ICAP/1.0\r\nHost: x\r\n\r\n',
     b'ICAP/1.0 200 OK\r\nMethods: RESPMOD, REQMOD\r\nISTag: "11111111"\r\n'
     b'Encapsulated: null-body=0\r\n\r\n', 'RFC 3507 s4.10'),
    ('icap reqmod', TCP, b'REQMOD icap://192.0.0.1/x ICAP/1.0\r\n\r\nGET / HTTP/1.1\r\n\r\n',
     b'ICAP/1.0 404 ICAP Service not found\r\nISTag: "11111111"\r\n'
     b'Encapsulated: null-body=0\r\n\r\n', 'RFC 3507 s4.3.3'),
    ('icap no end', TCP, b'OPTIONS icap://192.0.0.1/x ICAP/1.0\r\n', None, 'by hand'),
    ('lpd job', TCP, b'\2lp\n\x0210 cfA001x\n' + b'0123456789\0' + b'\x033 dfA001x\nabc\0\1\n',
     bytes(6), 'RFC 1179 s6'),
    ('lpd jobs waiting', TCP, b'\1lp\n', b'\0', 'RFC 1179 s5.1'),
    ('lpd state', TCP, b'\4lp bob\n', b'no entries\n', 'RFC 1179 s5.4'),
    ('lpd remove', TCP, b'\5lp bob\n', b'\0', 'RFC 1179 s5.5'),
    ('lpd no text', TCP, b'\1l\0p\n', None, 'by hand'),
    ('lpd other', TCP, b'\6lp\n', None, 'by hand'),
    ('lpd elsewhere@80', TCP, b'\1lp\n', None, 'own port only'),
    ('lscp @80', TCP, b'GET SERVER INFO\r\nx\r\n',
     b'DESCRIPTION: sampler\r\nVERSION: 1.0\r\nPROTOCOL_VERSION: 1.7\r\n.\r\n'
     b'ERR:0:Unknown command\r\n', 'LSCP'),
    ('lscp no end', TCP, b'GET SERVER INFO', None, 'by hand'),
    ('memcached stats@80', TCP, b'stats\r\nstats items\r\n',
     b'STAT pid 1\r\nSTAT uptime 1795225601\r\nSTAT time 1795225601\r\nSTAT version 1.6.0\r\n'
     b'STAT curr_items 0\r\nEND\r\nEND\r\n', 'protocol.txt'),
    ('memcached verbs@80', TCP, b'version\r\nget a b\r\ngets a\r\ndelete a\r\nflush_all\r\nmn\r\n'
     b'x\r\nquit\r\nget a\r\n', b'VERSION 1.6.0\r\nEND\r\nEND\r\nNOT_FOUND\r\nOK\r\nMN\r\nERROR\r\n',
     'protocol.txt'),
    ('memcached set@80', TCP, b'set a 0 0 5\r\nget a\r\nget a\r\nset a 0 0 2 noreply\r\nxx\r\nmn\r\n',
     b'STORED\r\nEND\r\nMN\r\n', 'protocol.txt'),
    ('memcached set of much', TCP, b'set a 0 0 1048577\r\nx', b'SERVER_ERROR object too large for '
     b'cache\r\n', 'protocol.txt'),
    ('memcached set of less than nothing', TCP, b'set a 0 0 -3\r\n', b'SERVER_ERROR object too '
     b'large for cache\r\n', 'by hand'),
    ('memcached http in lower case@80', TCP, b'get / HTTP/1.1\r\n\r\n', b'END\r\nERROR\r\n',
     'protocols in conflict'),
    ('memcached set of nothing', TCP, b'set a\r\nmn\r\n', None, 'by hand'),
    ('memcached upper case@80', TCP, b'STATS\r\n', None, 'IRC has it, too'),
    ('mpd verbs', TCP, b'ping\nstatus\npassword x\nclose\nping\n',
     b'OK\nACK [4@0] {status} you don\'t have permission for "status"\n'
     b'ACK [3@0] {password} incorrect password\n', 'MPD protocol'),
    ('mpd song@80', TCP, b'currentsong\n',
     b'ACK [4@0] {currentsong} you don\'t have permission for "currentsong"\n', 'MPD protocol'),
    ('mpd status elsewhere@80', TCP, b'status\n', None, 'a shared word'),
    ('munin verbs', TCP, b'list\nnodes\nversion\nfetch cpu\ncap x\nx\nquit\n',
     b'\n%s\n.\nmunin node on %s version: 2.0\n# Unknown service\n.\ncap\n'
     b'# Unknown command. Try cap, list, nodes, config, fetch, version or quit\n' % (ME, ME),
     'Munin guide'),
    ('munin elsewhere@80', TCP, b'nodes\n', None, 'a shared word'),
    ('nats connect@80', TCP, b'CONNECT {"user":"bob","pass":"x","verbose":false}\r\nPING\r\n', NATS_NO,
     'NATS protocol'),
    ('nats ping', TCP, b'PING\r\nPONG\r\n', b'PONG\r\n', 'NATS protocol'),
    ('nats subscribe', TCP, b'SUB foo 1\r\n', NATS_NO, 'NATS protocol'),
    ('nats other', TCP, b'x\r\n', b"-ERR 'Unknown Protocol Operation'\r\n", 'NATS protocol'),
    ('nats no end', TCP, b'CONNECT {}', None, 'by hand'),
    ('pjl id@80', TCP, PJL + b'@PJL INFO ID\r\n' + PJL + b'\r\n',
     b'@PJL INFO ID\r\n"Printer"\r\n\f', 'PJL reference'),
    ('pjl verbs', TCP, b'@PJL INFO STATUS\r\nA page\r\n@PJL ECHO hi\r\n@PJL JOB\r\n',
     b'@PJL INFO STATUS\r\nCODE=10001\r\nDISPLAY="Ready"\r\nONLINE=TRUE\r\n\f@PJL ECHO HI\r\n\f',
     'PJL reference'),
    ('pjl page', TCP, b'A page\r\n', None, 'it is printed'),
    ('rotctl @80', TCP, b'\\get_info\n', b'None\n', 'rotctld(1)'),
    ('rotctl verbs', TCP, b'_\np\nx\nq\np\n', b'None\n0.000000\n0.000000\nRPRT -4\n', 'rotctld(1)'),
    ('rotctl elsewhere@80', TCP, b'_\n', None, 'own port only'),
    ('scpi @80', TCP, b'*IDN?\n', b'Instrument,M1,0,1.0\n', 'SCPI-99'),
    ('scpi verbs', TCP, b'*opc?\n*RST\n*STB?\n', b'1\n0\n', 'SCPI-99'),
    ('scpi elsewhere@80', TCP, b'*OPC?\n', None, 'own port only'),
    ('stomp connect@80', TCP, b'CONNECT\nlogin:bob\npasscode:x\n\n\0', STOMP_NO, 'STOMP 1.2'),
    ('stomp stomp', TCP, b'STOMP\r\naccept-version:1.2\r\n\r\n\0\n', STOMP_NO, 'STOMP 1.2'),
    ('stomp no end', TCP, b'CONNECT\nlogin:bob\n\n', None, 'by hand'),
    ('telnet options@80', TCP, unhex('fffd03 fffb18 fffd27 fffe01 fffa18004142fff0 fff6'),
     TELNET_OFFER + b'\r\nlogin: ' + unhex('fffe18 fffc27'), 'RFC 854, RFC 1143'),
    ('telnet login', TCP, b'bob\r\nsecret\r\n', b'Password: \r\nLogin incorrect\r\nlogin: ', 'login(1)'),
    ('telnet line ends', TCP, b'a\r\0b\n\nc\rd\r\n', b'Password: \r\nLogin incorrect\r\nlogin: login: '
     b'Password: \r\nLogin incorrect\r\nlogin: ', 'RFC 854 s1'),
    ('telnet three logins', TCP, b'a\nb\n' * 4, b'Password: \r\nLogin incorrect\r\nlogin: '
     b'Password: \r\nLogin incorrect\r\nlogin: Password: \r\nLogin incorrect\r\n', 'login(1)'),
    ('telnet answer@80', TCP, TELNET_OFFER, None, 'our own answer'),
    ('telnet no end', TCP, b'bob', None, 'by hand'),
    ('tor-control info@80', TCP, b'PROTOCOLINFO\r\nAUTHENTICATE "secret"\r\nGETINFO version\r\n',
     TOR_INFO + b'515 Authentication failed\r\n', 'control-spec s3'),
    ('tor-control verbs', TCP, b'GETINFO version\r\n', b'514 Authentication required\r\n',
     'control-spec s3.9'),
    ('tor-control quit', TCP, b'QUIT\r\n', b'250 closing connection\r\n', 'control-spec s3.11'),
    ('tor-control signal elsewhere@80', TCP, b'SIGNAL HUP\r\n', None, 'a shared word'),
    ('zookeeper ruok@80', TCP, b'ruok', b'imok', 'ZooKeeper administration'),
    ('zookeeper srvr', TCP, b'srvr\n', b'Zookeeper version: 3.8.0\nConnections: 1\n'
     b'Mode: standalone\nNode count: 4\n', 'ZooKeeper administration'),
    ('zookeeper stat', TCP, b'stat',
     b'stat is not executed because it is not in the whitelist.\n', 'ZooKeeper administration'),
    ('zookeeper stat elsewhere@80', TCP, b'conf', None, 'by hand'),
]
VECTORS = (DNS_VECTORS + RPC_VECTORS + STUN_VECTORS + LIMIT_VECTORS + HTTP_VECTORS
           + [('smb ' + row[0],) + row[1:] for row in SMB_VECTORS] + MAIL_VECTORS + FILE_VECTORS
           + CHAT_VECTORS + SMALL_VECTORS + TEXT_VECTORS)


# ==== Responder: helpers ==============================================================

MAC, CLIENT_MAC = unhex('521c4ec2a41f'), unhex('020000000001')
HOST4, PEER4 = bytes((192, 0, 0, 1)), bytes((192, 0, 0, 0))
HOST6, PEER6 = unhex(OWN6), unhex(CLIENT6)
BOTH_OWN = '192.0.0.1,2001:41d0::ab32:bdb8'
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR, AE = (1 << bit for bit in range(9))
ALL_NODES4, ALL_NODES6 = bytes((224, 0, 0, 1)), unhex('ff02', '00' * 13, '01')
SOLICITED6 = unhex('ff02', '00' * 9, '01ff 32bdb8')     # of HOST6
ONES = 0xffffffff
MSS_OF_STEPS = 64, 256, 536, 1220, 1360, 1440, 1460, 8940


def packed(text):
    return ipaddress.ip_address(text).packed


def add_up(data):
    """One's-complement sum in words of 16 bits, 0xffff for what is intact (RFC 1071 s2)."""
    data += bytes(len(data) & 1)
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return total


def pseudo_header(src, dst, proto, size):
    return src + dst + struct.pack('!I3xB', size, proto)    # IPv4's has the same sum


def with_sum(data, at, before=b''):
    """Octets with their checksum put in."""
    data = data[:at] + b'\0\0' + data[at + 2:]
    return data[:at] + struct.pack('!H', 0xffff ^ add_up(before + data)) + data[at + 2:]


def ether(payload, kind, dst=MAC, src=CLIENT_MAC, tags=b''):
    return dst + src + tags + struct.pack('!H', kind) + payload


def ip4(payload, proto, src=PEER4, dst=HOST4, vihl=None, total=None, frag=0x4000, options=b''):
    size = 20 + len(options)
    head = struct.pack('!BBHHHBBH4s4s', 0x40 | size // 4 if vihl is None else vihl, 0,
                       size + len(payload) if total is None else total, 7, frag, 63, proto, 0,
                       src, dst)
    return with_sum(head + options, 10) + payload


def ip6(payload, proto, src=PEER6, dst=HOST6, hops=63, size=None, version=6):
    return struct.pack('!IHBB', version << 28 | 0xabcde, len(payload) if size is None else size,
                       proto, hops) + src + dst + payload


def packet(payload, proto, src=PEER4, dst=HOST4, mac=MAC, client=CLIENT_MAC, tags=b'', **fields):
    """Layer 4 -> frame, of the IP version of the addresses."""
    if len(src) == 4:
        return ether(ip4(payload, proto, src, dst, **fields), 0x0800, mac, client, tags)
    return ether(ip6(payload, proto, src, dst, **fields), 0x86dd, mac, client, tags)


def tcp_data(seq, ack, flags, data=b'', options=b'', sport=40000, dport=80, src=PEER4, dst=HOST4,
             offset=None, window=65535):
    size = 20 + len(options)
    word = (size // 4 if offset is None else offset) << 12 | flags
    segment = struct.pack('!HHIIHHHH', sport, dport, seq & ONES, ack & ONES, word, window, 0, 0)
    segment += options + data
    return with_sum(segment, 16, pseudo_header(src, dst, 6, len(segment)))


def tcp(seq, ack, flags, *args, src=PEER4, dst=HOST4, **options):
    """Segment -> frame."""
    link = {key: options.pop(key) for key in ('mac', 'client', 'tags') if key in options}
    return packet(tcp_data(seq, ack, flags, *args, src=src, dst=dst, **options), 6, src, dst,
                  **link)


def udp(data, sport=40000, dport=53, src=PEER4, dst=HOST4, size=None, total=None, **options):
    """Datagram -> frame; total: its checksum, if not the right one."""
    octets = struct.pack('!HHHH', sport, dport, 8 + len(data) if size is None else size, 0) + data
    octets = with_sum(octets, 6, pseudo_header(src, dst, 17, len(octets)))
    if total is not None:
        octets = octets[:6] + struct.pack('!H', total) + octets[8:]
    return packet(octets, 17, src, dst, **options)


def ping(rest=unhex('1234 0001 61626364'), src=PEER4, dst=HOST4, kind=None, code=0, **options):
    """Echo request of either version -> frame."""
    if len(src) == 4:
        kind = 8 if kind is None else kind
        return packet(with_sum(bytes((kind, code, 0, 0)) + rest, 2), 1, src, dst, **options)
    return icmp6(128 if kind is None else kind, rest, src, dst, code, **options)


def icmp6(kind, rest, src=PEER6, dst=HOST6, code=0, **options):
    message = bytes((kind, code, 0, 0)) + rest
    return packet(with_sum(message, 2, pseudo_header(src, dst, 58, len(message))), 58, src, dst,
                  **options)


def solicitation(target=HOST6, src=PEER6, dst=SOLICITED6, options=unhex('0101 020000000001'),
                 hops=255, **more):
    return icmp6(135, bytes(4) + target + options, src, dst, hops=hops, **more)


def arp(target=HOST4, sender=PEER4, op=1, hardware=1, kind=0x0800, sizes=(6, 4),
        address=CLIENT_MAC, dst=b'\xff' * 6, more=b'', tags=b''):
    body = struct.pack('!HHBBH6s4s6s4s', hardware, kind, sizes[0], sizes[1], op, address, sender,
                       bytes(6), target)
    return ether(body + more, 0x0806, dst, tags=tags)


def spoil(frame, at=-1, bits=1):
    """A frame with bits of one octet turned over."""
    frame = bytearray(frame)
    frame[at] ^= bits
    return bytes(frame)


Answer = collections.namedtuple(
    'Answer', 'mac client tags kind proto src dst hops sport dport seq ack flags options data')
NO_ANSWER = Answer(*(None,) * len(Answer._fields))


def read_answer(frame):
    """A frame of ours -> Answer; AssertionError where a length or checksum is not right."""
    assert len(frame) >= 14
    at = 12
    while frame[at:at + 2] in (b'\x81\0', b'\x88\xa8', b'\x91\0'):
        at += 4
    kind, payload = int.from_bytes(frame[at:at + 2], 'big'), frame[at + 2:]
    answer = NO_ANSWER._replace(mac=frame[6:12], client=frame[:6], tags=frame[12:at], kind=kind)
    if kind == 0x0806:
        assert len(payload) == 28 and payload[:8] == unhex('0001 0800 06 04 0002'), 'arp'
        return answer._replace(proto='arp', data=payload)
    if kind == 0x0800:
        assert payload[:2] == b'\x45\0' and payload[4:9] == b'\0\0\x40\0\x40', 'ipv4 header'
        assert int.from_bytes(payload[2:4], 'big') == len(payload), 'ipv4 total'
        assert add_up(payload[:20]) == 0xffff, 'ipv4 checksum'
        hops, proto, src, dst, data = (payload[8], payload[9], payload[12:16], payload[16:20],
                                       payload[20:])
    else:
        assert kind == 0x86dd and payload[:4] == b'\x60\0\0\0', 'ipv6 header'
        assert int.from_bytes(payload[4:6], 'big') == len(payload) - 40, 'ipv6 size'
        hops, proto, src, dst, data = (payload[7], payload[6], payload[8:24], payload[24:40],
                                       payload[40:])
    return read_layer4(answer._replace(hops=hops, proto=proto, src=src, dst=dst, data=data))


def read_layer4(answer):
    data, proto = answer.data, answer.proto
    before = b'' if proto == 1 else pseudo_header(answer.src, answer.dst, proto, len(data))
    assert add_up(before + data) == 0xffff, 'checksum of protocol %d' % proto
    if proto in (1, 58):
        assert len(data) >= 4 and data[0] in (0, 14, 129, 136), 'icmp'
        assert not data[1] or data[0] in (0, 129), 'only an echo reply has the code of its request'
        assert answer.hops == (255 if data[0] == 136 else 64), 'hops'
        return answer
    assert answer.hops == 64, 'hops'
    sport, dport = struct.unpack_from('!HH', data)
    answer = answer._replace(sport=sport, dport=dport)
    if proto == 17:
        size, total = struct.unpack_from('!HH', data, 4)
        assert size == len(data) > 8 and total, 'udp'
        return answer._replace(data=data[8:])
    assert proto == 6
    seq, ack, word, window, _, urgent = struct.unpack_from('!IIHHHH', data, 4)
    size = word >> 12 << 2
    assert 20 <= size <= len(data) and not word & 0xe00 and window == 65535 and not urgent, 'tcp'
    return answer._replace(seq=seq, ack=ack, flags=word & 0x1ff, options=data[20:size],
                           data=data[size:])


def draw_octets(draw):
    """random.Random -> a source of octets."""
    return lambda size: bytes(draw.randrange(256) for _ in range(size))


def quiet_host(protocols=None):
    return masscanned.Host(random=lambda size: b'\x11' * size, protocols=protocols)


HOST = quiet_host()


def own_lists(text):
    """'192.0.0.1,::1' -> (Addresses of IPv4, of IPv6), None where there are none."""
    return masscanned.by_family([masscanned.parse_addresses(each, 'test')
                                 for each in text.split(',') if each])


def make_stack(own=BOTH_OWN, deny='', mac=MAC, **options):
    """A Stack of fixed time and randomness; no own: every address."""
    options.setdefault('host', HOST)
    options.setdefault('budget', masscanned.NoBudget())
    stack = masscanned.Stack(mac, *own_lists(own), *own_lists(deny), **options)
    stack.tick(NOW)
    return stack


def packet_log(kind=masscanned.ConsoleFormat, fd=1):
    """A format -> a PacketLog of it."""
    return masscanned.PacketLog(masscanned.Journal(fd), kind(), NOW)


def wake(stack, now=NOW):
    """What is due at a time -> Answers, each one verified."""
    return [read_answer(each) for each in stack.tick(now)]


def ask(stack, frame, trusted=False):
    """A frame -> Answers, each one verified."""
    return [read_answer(each) for each in stack.answer_frame(frame, trusted)]


def port_of(name):
    """Name of a vector -> the port of ours it goes to."""
    if '@' in name:
        return int(name.partition('@')[2].split()[0])
    return masscanned.PROTOCOLS[name.split()[0]].ports[0]


def addresses_of(name):
    """Name of a vector -> addresses (client's, ours)."""
    return (PEER6, HOST6) if '/6' in name else (PEER4, HOST4)


class Datagrams(masscanned.Peer):
    """UDP in the clothes of a Stream: each feed is a datagram, port as answer_datagram() says."""
    kept, deaf, stalled, port = b'', True, False, 0

    def feed(self, data):
        out, port = masscanned.answer_datagram(self, data)
        self.port = port or 0
        return out


def make_talk(over, *args):
    """Transport, what a Stream takes -> a Stream, or Datagrams."""
    if over == TCP:
        return masscanned.Stream(*args)
    return Datagrams(UDP, *args)


def open_stream(name, over, port=None):
    """Stream for the vector of this name."""
    return make_talk(over, *addresses_of(name), 40000, port_of(name) if port is None else port, NOW,
                     HOST)


def feed(stream, *pieces):
    """Pieces -> all answers, those that wait for an ACK, too."""
    out = []
    for piece in pieces:
        out.append(stream.feed(piece))
        while stream.stalled:
            out.append(stream.feed(b''))
    return b''.join(out)


def octet_by_octet(data):
    return [data[at:at + 1] for at in range(len(data))]


def random_pieces(data, draw):
    """Octets -> pieces of 1 to many of them."""
    pieces, at = [], 0
    while at < len(data):
        size = draw.choice((1, 2, 3, 7, 20, 100, 1000, 10000))
        pieces.append(data[at:at + size])
        at += size
    return pieces


def expected_of(answer):
    """Fourth column of VECTORS -> (our port or 0, octets)."""
    return answer if isinstance(answer, tuple) else (0, answer or b'')


class Client:
    """The other end of a TCP connection with a Stack.

    seq, ack    what comes next of ours and is expected of the stack's
    got         octets of the stack, in order
    closed      it has sent FIN
    """

    def __init__(self, stack, dport=80, sport=40000, src=PEER4, dst=HOST4, seq=1000, options=b'',
                 mac=MAC, client=CLIENT_MAC):
        self.stack, self.got, self.closed = stack, b'', False
        self.where = dict(sport=sport, dport=dport, src=src, dst=dst, mac=mac, client=client)
        stack.connections.drop(self.flow)           # of who had the same ports before
        answer, = self.send(b'', SYN, seq, 0, options)
        assert answer.flags == SYN | ACK and answer.ack == seq + 1 & ONES and not answer.data
        self.seq, self.ack = answer.ack, answer.seq + 1 & ONES

    def frame(self, data=b'', flags=PSH | ACK, seq=None, ack=None, options=b'', window=65535):
        return tcp(self.seq if seq is None else seq, self.ack if ack is None else ack, flags,
                   data, options, window=window, **self.where)

    def send(self, *args):
        """A segment -> Answers; nothing is noted."""
        return ask(self.stack, self.frame(*args))

    def take(self, answers):
        """Note what is in order."""
        for answer in answers:
            if answer.seq == self.ack:
                self.got += answer.data
                self.closed = self.closed or bool(answer.flags & FIN)
                self.ack = self.ack + len(answer.data) + (answer.flags & FIN) & ONES
        return answers

    def say(self, data, flags=PSH | ACK):
        """A segment in order -> Answers, noted."""
        answers = self.send(data, flags)
        self.seq = self.seq + len(data) + (flags & FIN) & ONES
        return self.take(answers)

    def acknowledge(self):
        """ACK what came until no more comes -> self.got."""
        while self.take(self.send(b'', ACK)):
            pass
        return self.got

    def talk(self, data, size=1400):
        """A request in segments of this size -> all that was said until now."""
        for at in range(0, len(data), size):
            self.say(data[at:at + size])
            self.acknowledge()
        return self.got

    @property
    def flow(self):
        ports = struct.pack('!HH', self.where['sport'], self.where['dport'])
        return self.where['src'] + self.where['dst'] + ports

    @property
    def conn(self):
        return self.stack.connections.get(self.flow)


def mutate(data, draw):
    """Octets with a few changed, cut out, put in, or lengths set to extremes."""
    data = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        at, way = draw.randrange(len(data) + 1), draw.randrange(8)
        if way < 3 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif way == 3 and at < len(data):
            data[at] = draw.choice((0, 1, 0x0a, 0x7f, 0x80, 0xc0, 0xff))
        elif way == 4:
            del data[at:at + draw.choice((1, 2, 4, 20, 2000))]
        elif way == 5:
            data[at:at] = bytes(draw.randrange(256) for _ in range(draw.choice((1, 2, 4))))
        elif way == 6:
            data[at:at + 2] = draw.choice((b'\0\0', b'\xff\xff', b'\0\1', b'\x7f\xff', b'\x80\0'))
        elif way == 7:
            data[at:at + 4] = draw.choice((bytes(4), b'\xff' * 4, b'\x7f' + b'\xff' * 3))
    return bytes(data)


def bounce(stacks, frame, most=40):
    """A frame for the first stack, each answer for the other -> frames sent before silence."""
    waiting, count = [(0, frame)], 0
    while waiting and count < most:
        to, frame = waiting.pop(0)
        for answer in stacks[to].answer_frame(frame):
            count += 1
            waiting.append((1 - to, answer))
    return count


def toy(answer, sig=b'x', over=(TCP, UDP), check=None, name='toy', words=(), shared=(), ports=(1,),
        banner=None, most=9):
    """An answerer -> Protocol."""
    return masscanned.Protocol(name, over, (sig,) if sig else (), words, shared, ports, 'RFC 1 s1',
                               check, answer, banner, most)


def toy_stream(*answers_or_protocols, over=TCP):
    protocols = [each if isinstance(each, masscanned.Protocol) else toy(each)
                 for each in answers_or_protocols]
    return make_talk(over, PEER4, HOST4, 40000, 80, NOW, quiet_host(protocols))


def answer_lines(data, _):
    """Lines -> each in brackets."""
    line, end, _ = data.partition(b'\n')
    return masscanned.Reply(b'[' + line + b']', len(line) + 1) if end else masscanned.MORE


# ==== Responder: frames that get no answer ============================================

JUNK = b'junk: nothing begins like this'
V6 = dict(src=PEER6, dst=HOST6)
TARGET = packed('2001:41d0::ab32:bdb9')
LINK_OPTION = unhex('0101 020000000001')


def with_client(act, **options):
    """act(Client) -> frame, as function of a stack."""
    return lambda stack: act(Client(stack, **options))


def asked_much(client):
    """A frame of who asks and asks and acknowledges nothing."""
    while client.send(GET):
        client.seq = client.seq + len(GET) & ONES
    return client.frame(GET)


def crowded(stack):
    """The last ACK of as many handshakes of a network as may wait for a greeting, and one more."""
    clients = [Client(stack, 22, sport) for sport in range(masscanned.CROWD_MAX + 1)]
    for client in clients[:-1]:
        client.send(b'', ACK)
    return clients[-1].frame(b'', ACK)


def unchallenged(act):
    """The same where so many challenge ACKs were sent that no more may go."""
    def exhausted(stack):
        stack.challenges[:] = 0, NOW
        return act(stack)
    return exhausted


def after_talk(*args, **fields):
    """A frame of who has asked and heard; seq and ack are counted from what is due."""
    def act(client):
        client.talk(GET)
        return client.frame(*args, **{key: getattr(client, key) + value
                                      for key, value in fields.items()})
    return with_client(act)


def after_asking(*args, **fields):
    """A frame of who has asked and acknowledged nothing, likewise."""
    def act(client):
        client.send(GET)
        return client.frame(*args, seq=client.seq + len(GET) + fields.get('seq', 0),
                            ack=client.ack + fields.get('ack', 0))
    return with_client(act)


def where_zero_fits(**options):
    """A DNS query over IPv6 whose right checksum is 0xffff, sent with 0: 'no checksum'."""
    query = unhex('0000 0100', ONE, '00', A_IN)
    _, total = struct.unpack_from('!HH', udp(query, **options), 14 + 40 + 4)
    query = struct.pack('!H', total) + query[2:]
    frame = udp(query, **options)
    assert frame[14 + 40 + 6:14 + 40 + 8] == b'\0\0', 'the helper is wrong'
    return frame


ANY = dict(own='')                          # no list: every address is ours
FOUR, SIX = dict(own='192.0.0.1'), dict(own='2001:41d0::ab32:bdb8')
LONG = dict(own='10.0.0.0/8')
WIDE = dict(own='192.0.0.0/24', place=masscanned.NO_PLACE._replace(
    broadcasts=frozenset((0xc0000000, 0xc00000ff))))     # of 192.0.0.0/24
MDNS4 = packed('224.0.0.251')
DENY = dict(deny='192.0.0.0,2001:41d0::1234:0/112')
NO_TOKENS = dict(budget=masscanned.Budget(0, 0))
QUERY = unhex('1234 0100', ONE, WWW, A_IN)

# what is special, frame or function(stack) -> frame, options of the stack, fate
SILENCE = [
    ('nothing', b'', {}, 'eth short'), ('13 octets', ping()[:13], {}, 'eth short'),
    ('ARP of 27', arp()[:-1], {}, 'eth short'), ('ARP, empty', arp()[:14], {}, 'eth short'),
    ('IPv4 of 19', ping()[:33], {}, 'eth short'),
    ('IPv6 of 39', ping(**V6)[:53], {}, 'eth short'),
    ('tagged IPv4 of 19', ping(tags=unhex('81000001'))[:37], {}, 'eth short'),
    ('MAC of another', ping(mac=unhex('521c4ec2a41e')), {}, 'eth address'),
    ('multicast MAC of another', ping(mac=unhex('01005e000002')), {}, 'eth address'),
    ('solicited-node MAC of another', solicitation(mac=unhex('3333ff32bdb9')), {}, 'eth address'),
    ('solicited-node MAC, a list of IPv4', solicitation(mac=unhex('3333ff32bdb8')), FOUR,
     'eth address'),
    ('from a multicast MAC', ping(client=unhex('010000000001')), {}, 'eth source'),
    ('from a broadcast MAC', ping(client=b'\xff' * 6), {}, 'eth source'),
    ('from our own MAC', ping(client=MAC), {}, 'eth source'),
    ('14 octets', ping()[:12] + b'\x88\xcc', {}, 'eth type'),
    ('LLDP', ether(bytes(50), 0x88cc), {}, 'eth type'),
    ('802.3 length', ether(bytes(50), 50), {}, 'eth type'),
    ('three tags', ping(tags=unhex('88a80001 81000002 81000003')), {}, 'eth type'),
    ('tag, cut', ping(tags=unhex('81000001'))[:21], {}, 'eth type'),
    ('ARP of hardware 2', arp(hardware=2), {}, 'arp hardware'),
    ('ARP of hardware 0', arp(hardware=0), {}, 'arp hardware'),
    ('ARP for IPv6', arp(kind=0x86dd), {}, 'arp hardware'),
    ('ARP, hlen 8', arp(sizes=(8, 4)), {}, 'arp hardware'),
    ('ARP, plen 16', arp(sizes=(6, 16)), {}, 'arp hardware'),
    ('ARP reply', arp(op=2), {}, 'arp operation'), ('RARP', arp(op=3), {}, 'arp operation'),
    ('ARP for another', arp(bytes((192, 0, 0, 2))), {}, 'arp target'),
    ('ARP, a list of IPv6', arp(), SIX, 'arp target'),
    ('ARP announcement', arp(sender=HOST4), {}, 'arp announcement'),
    ('ARP announcement, no list', arp(sender=HOST4), ANY, 'arp announcement'),
    ('ARP probe, no list', arp(sender=bytes(4)), ANY, 'arp announcement'),
    ('ARP of a multicast MAC', arp(address=unhex('010000000001')), {}, 'arp source'),
    ('ARP for multicast', arp(ALL_NODES4), ANY, 'arp source'),
    ('ARP for broadcast', arp(b'\xff' * 4), ANY, 'arp source'),
    ('ARP for 0/8', arp(bytes((0, 0, 0, 1))), ANY, 'arp source'),

    ('IPv4 of version 6', ping(vihl=0x65), {}, 'ipv4 header'),
    ('IPv4 of version 0', ping(vihl=0x05), {}, 'ipv4 header'),
    ('IHL 4', ping(vihl=0x44), {}, 'ipv4 header'), ('IHL 0', ping(vihl=0x40), {}, 'ipv4 header'),
    ('IHL beyond the total', ping(vihl=0x4f), {}, 'ipv4 header'),
    ('total 0', ping(total=0), {}, 'ipv4 header'), ('total 19', ping(total=19), {}, 'ipv4 header'),
    ('total beyond the frame', ping(total=33), {}, 'ipv4 header'),
    ('IPv4 checksum', spoil(ping(), 22), {}, 'ipv4 checksum'),
    ('multicast, no list', ping(dst=ALL_NODES4), ANY, 'ipv4 multicast'),
    ('broadcast, no list', ping(dst=b'\xff' * 4), ANY, 'ipv4 multicast'),
    ('0.0.0.1, no list', ping(dst=bytes((0, 0, 0, 1))), ANY, 'ipv4 multicast'),
    ('multicast, a list of IPv6', ping(dst=ALL_NODES4), SIX, 'ipv4 multicast'),
    ('SYN to multicast', tcp(1, 0, SYN, dst=ALL_NODES4), {}, 'ipv4 multicast'),
    ('SYN to multicast, no list', tcp(1, 0, SYN, dst=ALL_NODES4), ANY, 'ipv4 multicast'),
    ('SYN to a multicast address in the list', tcp(1, 0, SYN, dst=ALL_NODES4),
     dict(own='192.0.0.1,224.0.0.1'), 'ipv4 multicast'),
    ('SYN to 0.0.0.1 in the list', tcp(1, 0, SYN, dst=bytes((0, 0, 0, 1))),
     dict(own='192.0.0.1,0.0.0.1'), 'ipv4 multicast'),
    ('SYN to broadcast', tcp(1, 0, SYN, dst=b'\xff' * 4), {}, 'ipv4 multicast'),
    ('SYN in a frame to broadcast', tcp(1, 0, SYN, mac=b'\xff' * 6), {}, 'ipv4 multicast'),
    ('data in a frame to broadcast', with_client(lambda client: tcp(
        client.seq, client.ack, PSH | ACK, GET, mac=b'\xff' * 6)), {}, 'ipv4 multicast'),
    ('SYN in a frame to broadcast, no list', tcp(1, 0, SYN, mac=b'\xff' * 6), ANY,
     'ipv4 multicast'),
    ('SYN in a frame to a multicast MAC', tcp(1, 0, SYN, mac=unhex('01005e000001')), {},
     'ipv4 multicast'),
    ('echo to broadcast', ping(dst=b'\xff' * 4), {}, 'ipv4 multicast'),
    ('echo to multicast', ping(dst=ALL_NODES4), {}, 'ipv4 multicast'),
    ('timestamp to broadcast', ping(bytes(16), kind=13, dst=b'\xff' * 4), {}, 'ipv4 multicast'),
    ('echo to a multicast address in the list', ping(dst=ALL_NODES4),
     dict(own='192.0.0.1,224.0.0.1'), 'ipv4 multicast'),
    ('multicast DNS', udp(QUERY, dst=MDNS4, dport=5353), {}, 'ipv4 multicast'),
    ('multicast DNS to its own MAC, a long list', udp(
        QUERY, dst=MDNS4, dport=5353, mac=unhex('01005e0000fb')), LONG, 'ipv4 multicast'),
    ('multicast DNS to its own MAC, a list with the same lowest bits', udp(
        QUERY, dst=MDNS4, dport=5353, mac=unhex('01005e0000fb')), dict(own='192.0.0.251'),
     'ipv4 multicast'),
    ('LLMNR, a long list', udp(QUERY, dst=packed('224.0.0.252'), dport=5355,
                               mac=unhex('01005e0000fc')), LONG, 'ipv4 multicast'),
    ('echo to the broadcast address of the network', ping(dst=packed('192.0.0.255')), WIDE,
     'ipv4 multicast'),
    ('echo to the network address', ping(dst=packed('192.0.0.0')), WIDE, 'ipv4 multicast'),
    ('SYN to the broadcast address of the network', tcp(1, 0, SYN, dst=packed('192.0.0.255')),
     WIDE, 'ipv4 multicast'),
    ('SYN to the network address', tcp(1, 0, SYN, dst=packed('192.0.0.0')), WIDE,
     'ipv4 multicast'),
    ('SYN to the broadcast address of the network, no list', tcp(
        1, 0, SYN, src=packed('192.0.1.2'), dst=packed('192.0.0.255')), dict(WIDE, own=''),
     'ipv4 multicast'),
    ('UDP to the broadcast address of the network, no list', udp(
        QUERY, src=packed('192.0.1.2'), dst=packed('192.0.0.255')), dict(WIDE, own=''),
     'ipv4 multicast'),
    ('ARP for the broadcast address of the network', arp(packed('192.0.0.255')), WIDE,
     'arp target'),
    ('ARP for the same, no list', arp(packed('192.0.0.255')), dict(WIDE, own=''), 'arp source'),
    ('ARP for loopback, no list', arp(packed('127.0.0.1')), ANY, 'arp source'),
    ('UDP to loopback, listed', udp(QUERY, dst=packed('127.0.0.1')),
     dict(own='192.0.0.1,127.0.0.1'), 'ipv4 multicast'),
    ('SYN to loopback, no list', tcp(1, 0, SYN, dst=packed('127.0.0.1')), ANY, 'ipv4 multicast'),
    ('IPv4 for another', ping(dst=bytes((192, 0, 0, 2))), {}, 'ipv4 address'),
    ('SYN for another', tcp(1, 0, SYN, dst=bytes((192, 0, 0, 2))), {}, 'ipv4 address'),
    ('IPv4, a list of IPv6', ping(), SIX, 'ipv4 address'),
    ('SYN over IPv4, a list of IPv6', tcp(1, 0, SYN), SIX, 'ipv4 address'),
    ('IPv4 denied', ping(), DENY, 'ipv4 denied'),
    ('SYN denied', tcp(1, 0, SYN), DENY, 'ipv4 denied'),
    ('IPv4 denied, no list', ping(), dict(DENY, own=''), 'ipv4 denied'),
    ('SYN denied, no list', tcp(1, 0, SYN), dict(DENY, own=''), 'ipv4 denied'),
    ('UDP denied', udp(QUERY), DENY, 'ipv4 denied'),
    ('from multicast', ping(src=ALL_NODES4), {}, 'ipv4 source'),
    ('from broadcast', ping(src=b'\xff' * 4), {}, 'ipv4 source'),
    ('from 0.0.0.0', ping(src=bytes(4)), {}, 'ipv4 source'),
    ('from loopback', ping(src=packed('127.0.0.1')), {}, 'ipv4 source'),
    ('SYN from loopback', tcp(1, 0, SYN, src=packed('127.255.255.254')), {}, 'ipv4 source'),
    ('UDP from loopback, no list', udp(QUERY, src=packed('127.0.0.1')), ANY, 'ipv4 source'),
    ('SYN from the broadcast address of the network', tcp(1, 0, SYN, src=packed('192.0.0.255')),
     dict(WIDE, own='192.0.0.1'), 'ipv4 source'),
    ('SYN from the same, no list', tcp(1, 0, SYN, src=packed('192.0.0.255')),
     dict(WIDE, own=''), 'ipv4 source'),
    ('echo from the network address', ping(src=packed('192.0.0.0')), dict(WIDE, own=''),
     'ipv4 source'),
    ('from an address of ours', ping(src=packed('192.0.0.9')),
     dict(own='192.0.0.1,192.0.0.9'), 'ipv4 source'),
    ('from the address asked', ping(src=HOST4), {}, 'ipv4 source'),
    ('from the address asked, no list', ping(src=HOST4), ANY, 'ipv4 source'),
    ('SYN from the address asked, no list', tcp(1, 0, SYN, src=HOST4), ANY, 'ipv4 source'),
    ('SYN from an address of ours', tcp(1, 0, SYN, src=packed('192.0.0.9')),
     dict(own='192.0.0.1,192.0.0.9'), 'ipv4 source'),
    ('SYN from multicast', tcp(1, 0, SYN, src=ALL_NODES4), {}, 'ipv4 source'),
    ('SYN from 0.0.0.0', tcp(1, 0, SYN, src=bytes(4)), {}, 'ipv4 source'),
    ('first fragment', ping(frag=0x2000), {}, 'ipv4 fragment'),
    ('later fragment', ping(frag=0x0001), {}, 'ipv4 fragment'),
    ('later fragment, DF', ping(frag=0x5000), {}, 'ipv4 fragment'),
    ('SYN, fragment', packet(tcp_data(1, 0, SYN), 6, frag=0x2000), {}, 'ipv4 fragment'),
    ('GRE', packet(bytes(20), 47), {}, 'ipv4 protocol'),
    ('ICMPv6 over IPv4', packet(ping(**V6)[54:], 58), {}, 'ipv4 protocol'),
    ('ICMP of 3', packet(b'\x08\0\xf7', 1), {}, 'ipv4 short'),
    ('ICMP of 0', packet(b'', 1), {}, 'ipv4 short'),
    ('TCP of 19', packet(tcp_data(1, 0, SYN)[:-1], 6), {}, 'ipv4 short'),
    ('UDP of 7', packet(b'\0\1\0\1\0\7\0', 17), {}, 'ipv4 short'),
    ('ICMP checksum', spoil(ping()), {}, 'icmpv4 checksum'),
    ('echo reply', ping(kind=0), {}, 'icmpv4 type'),
    ('address mask', ping(kind=17), {}, 'icmpv4 type'),
    ('timestamp, cut', ping(bytes(15), kind=13), {}, 'ipv4 short'),

    ('IPv6 of version 4', ping(version=4, **V6), {}, 'ipv6 header'),
    ('IPv6 of 40', ping(size=0, **V6)[:54], {}, 'ipv6 header'),
    ('IPv6 of size 0', ping(size=0, **V6), {}, 'ipv6 header'),
    ('IPv6 beyond the frame', ping(size=13, **V6), {}, 'ipv6 header'),
    ('IPv6 fragment', packet(unhex('3a000008 00000000') + ping(**V6)[54:], 44, **V6), {},
     'ipv6 fragment'),
    ('IPv6 first fragment', packet(unhex('3a000001 00000000') + ping(**V6)[54:], 44, **V6), {},
     'ipv6 fragment'),
    ('routing, segments left', packet(unhex('3a000001 00000000') + ping(**V6)[54:], 43, **V6), {},
     'ipv6 extension'),
    ('extension beyond', packet(unhex('3a040104 00000000') + ping(**V6)[54:], 0, **V6), {},
     'ipv6 extension'),
    ('extension of 7', packet(unhex('3a000104 000000'), 60, **V6), {}, 'ipv6 extension'),
    ('IPv6 multicast, no list', ping(src=PEER6, dst=ALL_NODES6), ANY, 'ipv6 multicast'),
    ('IPv6 multicast, a list of IPv4', ping(src=PEER6, dst=ALL_NODES6), FOUR, 'ipv6 multicast'),
    ('SYN to ff02::1', tcp(1, 0, SYN, src=PEER6, dst=ALL_NODES6), {}, 'ipv6 multicast'),
    ('SYN over IPv6 in a frame to ff02::1', tcp(1, 0, SYN, mac=unhex('333300000001'), **V6), {},
     'ipv6 multicast'),
    ('multicast DNS over IPv6', udp(QUERY, src=PEER6, dst=packed('ff02::fb'), dport=5353), {},
     'ipv6 multicast'),
    ('echo to the solicited-node address of another', ping(
        src=PEER6, dst=packed('ff02::1:ff32:bdb9')), {}, 'ipv6 multicast'),
    ('IPv6 for another', ping(src=PEER6, dst=TARGET), {}, 'ipv6 address'),
    ('UDP for another', udp(QUERY, src=PEER6, dst=TARGET), {}, 'ipv6 address'),
    ('IPv6, a list of IPv4', ping(**V6), FOUR, 'ipv6 address'),
    ('IPv6 denied', ping(**V6), DENY, 'ipv6 denied'),
    ('NS denied', solicitation(), DENY, 'ipv6 denied'),
    ('from ff02::1', ping(src=ALL_NODES6, dst=HOST6), {}, 'ipv6 source'),
    ('from ::', ping(src=bytes(16), dst=HOST6), {}, 'ipv6 source'),
    ('from ::1', ping(src=packed('::1'), dst=HOST6), {}, 'ipv6 source'),
    ('from ::1, no list', ping(src=packed('::1'), dst=HOST6), ANY, 'ipv6 source'),
    ('from the address asked, IPv6', ping(src=HOST6, dst=HOST6), {}, 'ipv6 source'),
    ('the same, no list', ping(src=HOST6, dst=HOST6), ANY, 'ipv6 source'),
    ('from an address of ours, IPv6', ping(src=TARGET, dst=HOST6),
     dict(own='2001:41d0::ab32:bdb8-2001:41d0::ab32:bdb9'), 'ipv6 source'),
    ('NS from an address of ours', solicitation(src=TARGET),
     dict(own='2001:41d0::ab32:bdb8-2001:41d0::ab32:bdb9'), 'ipv6 source'),
    ('IPv6 GRE', packet(bytes(20), 47, **V6), {}, 'ipv6 protocol'),
    ('IPv6 no next header', packet(bytes(20), 59, **V6), {}, 'ipv6 protocol'),
    ('ICMP over IPv6', packet(ping()[34:], 1, **V6), {}, 'ipv6 protocol'),
    ('ICMPv6 of 3', packet(b'\x80\0\0', 58, **V6), {}, 'ipv6 short'),
    ('nothing behind an extension', packet(unhex('3a000104 00000000'), 60, **V6), {},
     'ipv6 short'),
    ('IPv6 TCP of 19', packet(tcp_data(1, 0, SYN, **V6)[:-1], 6, **V6), {}, 'ipv6 short'),
    ('IPv6 UDP of 7', packet(b'\0\1\0\1\0\7\0', 17, **V6), {}, 'ipv6 short'),
    ('ICMPv6 of 4', ping(b'', kind=129, **V6), {}, 'icmpv6 type'),
    ('ICMPv6 checksum', spoil(ping(**V6)), {}, 'icmpv6 checksum'),
    ('NS checksum', spoil(solicitation()), {}, 'icmpv6 checksum'),
    ('ICMPv6 echo reply', ping(kind=129, **V6), {}, 'icmpv6 type'),
    ('router solicitation', icmp6(133, bytes(4)), {}, 'icmpv6 type'),
    ('NA', icmp6(136, bytes(4) + HOST6), {}, 'icmpv6 type'),
    ('NS of 23', icmp6(135, bytes(4) + HOST6[:-1]), {}, 'icmpv6 solicitation'),
    ('NS, hops 254', solicitation(hops=254), {}, 'icmpv6 solicitation'),
    ('NS, code 1', icmp6(135, bytes(4) + HOST6, code=1, hops=255), {}, 'icmpv6 solicitation'),
    ('NS, option of 0', solicitation(options=unhex('0100')), {}, 'icmpv6 solicitation'),
    ('NS, option cut', solicitation(options=unhex('0102 020000000001')), {},
     'icmpv6 solicitation'),
    ('NS for multicast', solicitation(ALL_NODES6), ANY, 'icmpv6 solicitation'),
    ('NS from multicast', solicitation(src=ALL_NODES6), {}, 'icmpv6 solicitation'),
    ('NS from its target', solicitation(src=HOST6), ANY, 'icmpv6 solicitation'),
    ('NS where there is no Ethernet', solicitation(), dict(
        place=masscanned.NO_PLACE._replace(ethernet=False)), 'icmpv6 solicitation'),
    ('NS for another', solicitation(TARGET), {}, 'icmpv6 target'),
    ('NS, a list of IPv4', solicitation(mac=MAC), FOUR, 'icmpv6 target'),
    ('duplicate address detection, no list', solicitation(src=bytes(16), options=b''), ANY,
     'icmpv6 duplicate address'),
    ('the same to no solicited-node address', solicitation(src=bytes(16), dst=HOST6, options=b''),
     {}, 'icmpv6 duplicate address'),
    ('the same with a link-layer address', solicitation(src=bytes(16)), {},
     'icmpv6 duplicate address'),

    ('data offset 4', tcp(1, 0, SYN, offset=4), {}, 'tcp offset'),
    ('data offset 0', tcp(1, 0, SYN, offset=0), {}, 'tcp offset'),
    ('data offset beyond', tcp(1, 0, SYN, offset=6), {}, 'tcp offset'),
    ('data offset 15', tcp(1, 0, SYN, b'x' * 39, offset=15), {}, 'tcp offset'),
    ('TCP checksum', spoil(tcp(1, 0, SYN), -5), {}, 'tcp checksum'),
    ('TCP checksum of the options', spoil(tcp(1, 0, SYN, b'', unhex('020405b4'))), {},
     'tcp checksum'),
    ('TCP checksum over IPv6', spoil(tcp(1, 0, SYN, **V6), -5), {}, 'tcp checksum'),
    ('RST', tcp(1, 0, RST), {}, 'tcp reset'), ('RST+SYN', tcp(1, 0, RST | SYN), {}, 'tcp reset'),
    ('RST of a connection', after_talk(b'', RST, seq=0), {}, 'tcp reset'),
    ('no flags', tcp(1, 0, 0, GET), {}, 'tcp flags'), ('FIN', tcp(1, 0, FIN), {}, 'tcp flags'),
    ('SYN+ACK', tcp(1, 1, SYN | ACK), {}, 'tcp flags'),
    ('SYN+FIN', tcp(1, 0, SYN | FIN), {}, 'tcp flags'),
    ('SYN, ECN and PSH', tcp(1, 0, SYN | ECE | CWR | PSH), {}, 'tcp flags'),
    ('SYN, ECN and URG', tcp(1, 0, SYN | ECE | CWR | URG), {}, 'tcp flags'),
    ('bare ACK of the handshake', with_client(lambda client: client.frame(b'', ACK)), {},
     'tcp bare ack'),
    ('bare ACK', after_talk(b'', ACK, seq=0), {}, 'tcp bare ack'),
    ('data, ACK beyond', unchallenged(after_talk(GET, PSH | ACK, ack=1)), {}, 'tcp ack number'),
    ('data, ACK too old', unchallenged(after_talk(GET, PSH | ACK, ack=-65536)), {},
     'tcp ack number'),
    ('ACK of what we did not send yet', unchallenged(after_asking(b'', ACK, ack=len(KEEP) + 1)),
     {}, 'tcp ack number'),
    ('SYN on a connection', unchallenged(after_talk(b'', SYN)), {}, 'tcp second syn'),
    ('RST in the window', unchallenged(after_talk(b'', RST, seq=1)), {}, 'tcp reset'),
    ('data without handshake', tcp(1, 1, PSH | ACK, GET), {}, 'tcp cookie'),
    ('FIN without handshake', tcp(1, 1, FIN | ACK), {}, 'tcp cookie'),
    ('PSH without handshake', tcp(1, 1, PSH | ACK), {}, 'tcp cookie'),
    ('cookie and one', with_client(lambda client: client.frame(GET, ack=client.ack + (1 << 20))),
     {}, 'tcp cookie'),
    ('too far beyond', with_client(lambda client: client.frame(GET, seq=client.seq + 65536)), {},
     'tcp cookie'),
    ('too far before', with_client(lambda client: client.frame(GET, seq=client.seq - 2)), {},
     'tcp cookie'),
    ('cookie of another port', with_client(lambda client: tcp(
        client.seq, client.ack, PSH | ACK, GET, sport=40001)), {}, 'tcp cookie'),
    ('client that never acknowledges', with_client(asked_much), {}, 'tcp window'),

    ('UDP size 7', udp(QUERY, size=7), {}, 'udp size'),
    ('UDP size 0', udp(QUERY, size=0, **V6), {}, 'udp size'),
    ('UDP size beyond', udp(QUERY, size=9 + len(QUERY)), {}, 'udp size'),
    ('UDP checksum', spoil(udp(QUERY)), {}, 'udp checksum'),
    ('UDP checksum over IPv6', spoil(udp(QUERY, **V6)), {}, 'udp checksum'),
    ('UDP checksum 0 over IPv6', udp(QUERY, total=0, **V6), {}, 'udp checksum'),
    ('the same where 0 fits', where_zero_fits(**V6), {}, 'udp checksum'),
    ('UDP junk', udp(JUNK, dport=9999), {}, 'udp silence'),
    ('UDP empty', udp(b''), {}, 'udp silence'), ('UDP cut', udp(GET[:-1]), {}, 'udp silence'),
    ('UDP empty of size 8', udp(QUERY, size=8, total=0), {}, 'udp silence'),
    ('UDP answer beyond the MTU', udp(LONG_GET, dport=80), dict(mtu=28 + len(KEEP) - 1),
     'udp mtu'),
    ('UDP answer beyond the MTU, IPv6', udp(LONG_GET, dport=80, **V6),
     dict(mtu=48 + len(KEEP) - 1), 'udp mtu'),
    ('too many of a network wait', crowded, {}, 'tcp crowd'),
    ('UDP answer too much longer', udp(b'xy', dport=9), dict(host=quiet_host([toy(
        lambda data, peer: b'12345', most=2)])), 'udp ratio'),
    ('UDP budget', udp(QUERY), NO_TOKENS, 'udp budget'),
]


# ==== Responder: wire formats and toolkit =============================================

class Wire(Case):
    """Checksums, addresses, options."""

    def assert_refused(self, parts, function, *args):
        with self.assertRaises(masscanned.UserError) as caught:
            function(*args)
        self.assert_line(str(caught.exception), *parts)

    def test_checksum(self):
        for octets, start, total in SUMS:
            with self.subTest(octets=octets, start=start):
                self.assertEqual(masscanned.checksum(unhex(octets), start), total)

    def test_checksum_by_the_loop(self):
        draw = random.Random(SEED)
        for size in list(range(70)) + [1459, 1460]:
            data = bytes(draw.choice((0, 0xff, draw.randrange(256))) for _ in range(size))
            with self.subTest(data=data, seed=SEED):
                self.assertEqual(masscanned.checksum(data), 0xffff ^ add_up(data))

    def test_is_intact(self):
        draw = random.Random(SEED)
        for size in list(range(2, 40)) + [1459]:
            data = with_sum(bytes(draw.randrange(256) for _ in range(size)), 0)
            with self.subTest(data=data, seed=SEED):
                self.assertTrue(masscanned.is_intact(data))
                self.assertTrue(masscanned.is_intact(data[2:], int.from_bytes(data[:2], 'big')))
                self.assertTrue(masscanned.is_intact(data + b'\0'))
                for bit in range(8):
                    self.assertFalse(masscanned.is_intact(
                        spoil(data, draw.randrange(size), 1 << bit)))
        self.assertTrue(masscanned.is_intact(b'\xff\xff'))
        self.assertFalse(masscanned.is_intact(b'\xff\xfe'))

    def test_macs(self):
        for text, octets in MACS:
            with self.subTest(text=text):
                self.assertEqual(masscanned.parse_mac(text), unhex(octets))
        self.assertEqual(masscanned.mac_text(MAC), '52:1c:4e:c2:a4:1f')
        for text in NO_MACS:
            with self.subTest(text=text):
                self.assert_refused([repr(text).strip("'\"")[:3], 'MAC address'],
                                    masscanned.parse_mac, text)

    def test_addresses(self):
        for text, version, first, last in OWN_LISTS:
            with self.subTest(text=text):
                self.assertEqual(masscanned.parse_addresses(text, 'here'), (
                    version, int(ipaddress.ip_address(first)), int(ipaddress.ip_address(last))))

    def test_no_addresses(self):
        for text, message in NO_OWN_LISTS:
            with self.subTest(text=text):
                self.assert_refused(['here: ' + repr(text), message],
                                    masscanned.parse_addresses, text, 'here')

    def expected(self, texts):
        return [masscanned.parse_addresses(text, 'test') for text in texts.split()]

    def test_files(self):
        for data, addresses in OWN_FILES:
            with self.subTest(data=data):
                self.assertEqual(masscanned.load_addresses(self.path('own', data), None, '--x'),
                                 self.expected(addresses))

    def test_no_files(self):
        for data, message in NO_OWN_FILES:
            with self.subTest(data=data):
                path = self.path('own', data)
                self.assert_refused([path + message], masscanned.load_addresses, path, None, '--x')
        for path, message in ((self.path('missing'), 'No such file'),
                              (self.folder, 'Is a directory')):
            with self.subTest(path=path):
                self.assert_refused([path + ': ' + message], masscanned.load_addresses, path,
                                    None, '--x')

    def test_inline(self):
        path = self.path('own', b'192.0.2.7\n')
        for inline, addresses in (
                ('192.0.2.1', '192.0.2.1'), (' 192.0.2.1 , ::1 ', '192.0.2.1 ::1'), ('', ''),
                (',,192.0.2.1,', '192.0.2.1'), ('192.0.2.1-192.0.2.2', '192.0.2.1-192.0.2.2')):
            with self.subTest(inline=inline):
                self.assertEqual(masscanned.load_addresses(None, inline, '--x'),
                                 self.expected(addresses))
                self.assertEqual(masscanned.load_addresses(path, inline, '--x'),
                                 self.expected('192.0.2.7 ' + addresses))
        self.assertEqual(masscanned.load_addresses(None, None, '--x'), [])
        self.assert_refused(["--x: 'bad'", 'not an address'], masscanned.load_addresses, None,
                            '192.0.2.1,bad', '--x')

    def test_members(self):
        low = 0x0a000000
        few = masscanned.Addresses([(low + 9, low + 9), (low, low + 3), (low + 2, low + 5)])
        self.assertEqual((few.count, few.ranges[0]), (7, (low + 9, low + 9)))
        self.assertEqual(sorted(few.members), [low + number for number in (0, 1, 2, 3, 4, 5, 9)])
        many = masscanned.Addresses([(low, low + masscanned.EXPANDED_MAX)])
        self.assertIsInstance(many.members, masscanned.Ranges)
        self.assertEqual(many.count, masscanned.EXPANDED_MAX + 1)
        net, = own_lists('2001:db8::/64')[1:]
        self.assertEqual(net.count, 1 << 64)
        for text, there in (('2001:db8::', True), ('2001:db8::ffff:ffff:ffff:ffff', True),
                            ('2001:db8:0:1::', False), ('2001:db7:ffff::', False), ('::', False)):
            self.assertEqual(int(ipaddress.ip_address(text)) in net.members, there, text)

    def test_both_representations(self):
        draw = random.Random(SEED)
        for _ in range(30 * BULK):
            ranges = []
            for _ in range(draw.randrange(1, 12)):
                first = draw.randrange(300)
                ranges.append((first, first + draw.choice((0, 0, 1, 2, 30))))
            with self.subTest(ranges=ranges, seed=SEED):
                few = masscanned.Addresses(ranges)
                with patched(masscanned, EXPANDED_MAX=0):
                    many = masscanned.Addresses(ranges)
                self.assertIsInstance(few.members, frozenset)
                self.assertIsInstance(many.members, masscanned.Ranges)
                self.assertEqual(few.count, many.count)
                for number in range(-1, 340):
                    self.assertEqual(number in few.members, number in many.members, number)

    def test_merge_ranges(self):
        for ranges, merged in (
                ([], []), ([(5, 5)], [(5, 5)]), ([(5, 9), (0, 4)], [(0, 9)]),
                ([(0, 3), (5, 9)], [(0, 3), (5, 9)]), ([(0, 9), (2, 3)], [(0, 9)]),
                ([(0, 5), (3, 9), (20, 20)], [(0, 9), (20, 20)]), ([(0, 0), (0, 0)], [(0, 0)])):
            self.assertEqual(masscanned.merge_ranges(ranges), merged)

    def test_find_mss(self):
        for options, mss in MSS_OPTIONS:
            with self.subTest(options=options):
                self.assertEqual(masscanned.find_mss(unhex(options), 777),
                                 777 if mss is None else mss)

    def test_find_mss_ends(self):
        draw = random.Random(SEED)
        for _ in range(2000 * BULK):
            options = bytes(draw.choice((0, 1, 1, 2, 3, 4, 5, 255)) for _ in range(40))
            self.assertIn(masscanned.find_mss(options, 777), range(65536), options)

    def test_walk_extensions(self):
        for proto, octets, expected in EXTENSION_CHAINS:
            with self.subTest(proto=proto, octets=octets):
                found = masscanned.walk_extensions(proto, unhex(octets))
                if isinstance(expected, str):
                    self.assertEqual(found[2], expected)
                else:
                    self.assertEqual(found, (expected[0], unhex(expected[1]), None))

    def test_extensions_max(self):
        """So many headers are walked, and no more."""
        for count, fate in ((masscanned.EXTENSIONS_MAX, None),
                            (masscanned.EXTENSIONS_MAX + 1, 'ipv6 extension')):
            chain = unhex(DEST * (count - 1) + HOP)
            self.assertEqual(masscanned.walk_extensions(60, chain)[2], fate, count)

    def test_nd_options(self):
        for octets, kinds in ND_OPTIONS:
            with self.subTest(octets=octets):
                self.assertEqual(masscanned.parse_nd_options(unhex(octets)), kinds)


# ==== Responder: protocol registry ====================================================

class Registry(unittest.TestCase):
    """What every protocol owes us, who wins, and what a Stream makes of answers."""

    def test_complete(self):
        tested = {vector[0].split()[0] for vector in VECTORS if vector[3]}
        silent = {vector[0].split()[0] for vector in VECTORS if vector[3] is None}
        for name, each in masscanned.PROTOCOLS.items():
            with self.subTest(protocol=name):
                self.assertEqual(each.name, name)
                self.assertIn(name, tested, 'no vector')
                self.assertIn(name, silent, 'no vector of silence')
                self.assertTrue(each.answer.__doc__, 'no docstring')
                self.assertRegex(each.ref, r'^((RFC \d+|MS-\w+) s\d[\d.]*'
                                           r'(, ((RFC \d+|MS-\w+) )?s\d[\d.]*)*|https://\S+)$')
                self.assertIn(each.over, ((TCP, UDP), (TCP,), (UDP,)))
                self.assertTrue(each.ports and (each.sigs or each.words))
                self.assertTrue(all(0 < port < 65536 for port in each.ports))

    def test_names_are_unique(self):
        with self.assertRaises(AssertionError):
            masscanned.protocol('http', sig=(b'x',), port=1, ref='RFC 1 s1')(lambda *_: None)
        for vector in VECTORS:
            self.assertIn(vector[0].split()[0], masscanned.PROTOCOLS)
        names = [(vector[0], vector[1]) for vector in VECTORS]
        self.assertEqual(sorted(each for each in set(names) if names.count(each) > 1), [])

    def test_no_equal_overlaps(self):
        """Of two protocols that fit the same octets equally well, the port decides."""
        for transport, name in (TCP, 'tcp'), (UDP, 'udp'):
            index = masscanned.Registry(masscanned.PROTOCOLS.values()).index[transport]
            places = [*index.lists.values(), *index.lasts.values(),
                      *(each for _, table in index.runs for each in table.values())]
            for each in itertools.chain.from_iterable(places):
                for other in each.rivals:
                    fixed = [{at + index: octet for at, octets in one.runs
                              for index, octet in enumerate(octets)} for one in (each, other)]
                    if all(fixed[1].get(at, octet) == octet for at, octet in fixed[0].items()):
                        self.assertFalse(set(each.each.ports) & set(other.each.ports),
                                         (name, each.each.name, other.each.name))
            for word, rows in index.words.items():
                for port, owners in rows.items():
                    self.assertEqual([each.name for each in owners[1:]], [], (word, port))

    def test_signatures(self):
        self.assertEqual(masscanned.signature_octets(b'GET'), [71, 69, 84])
        self.assertEqual(masscanned.signature_octets('00 .. ff'), [0, None, 255])
        self.assertEqual(masscanned.signature_runs([1, 2, None, None, 3, None]),
                         [(0, b'\1\2'), (4, b'\3')])
        self.assertEqual(masscanned.signature_runs([None]), [])

    def find(self, protocols, data, over=TCP, port=80, **options):
        """-> name of the protocol; b'' where more may come."""
        strict = options.pop('strict', False)
        peer = make_talk(over, PEER4, HOST4, 40000, port, NOW, None)
        found = masscanned.Registry(protocols, strict).find(data, peer, **options)
        return found and found.name

    def test_most_fixed_octets_win(self):
        toys = [toy(None, '.. .. .. ..', name='any', ports=(80,)), toy(None, b'AB', name='two'),
                toy(None, '41 .. 43 44', name='three'), toy(None, b'ABCD', name='four')]
        for order in itertools.permutations(toys):
            for data, name in ((b'ABCD', 'four'), (b'AxCD', 'three'), (b'ABxx', 'two'),
                               (b'xxxx', 'any'), (b'ABCx', 'two'), (b'A*CD', 'three'),
                               (b'\x2a\x2a\x2a\x2a', 'any')):
                for over in TCP, UDP:
                    self.assertEqual(self.find(order, data, over), name)

    def test_more_may_come(self):
        toys = [toy(None, b'AB', name='two'), toy(None, '41 42 .. 44', name='three')]
        for data, tcp_name, udp_name in (
                (b'A', b'', None), (b'AB', b'', 'two'), (b'ABC', b'', 'two'),
                (b'ABCx', 'two', 'two'), (b'ABCD', 'three', 'three'), (b'AC', None, None),
                (b'x', None, None)):
            with self.subTest(data=data):
                self.assertEqual(self.find(toys, data), tcp_name)
                self.assertEqual(self.find(toys, data, final=True), udp_name)
                self.assertEqual(self.find(toys, data, UDP), udp_name)

    def test_check(self):
        strong = toy(None, b'ABC', check=lambda data, peer: data.endswith(b'!'), name='strong')
        toys = [strong, toy(None, b'A', name='weak'), toy(None, b'x', over=(UDP,), name='udp')]
        for data, name in ((b'ABC!', 'strong'), (b'ABC', 'weak'), (b'AB!', 'weak')):
            self.assertEqual(self.find(toys, data, UDP), name)
        self.assertEqual((self.find(toys, b'x', UDP), self.find(toys, b'x')), ('udp', None))
        self.assertEqual(self.find([], b'x'), None)

    # any first octets, words, ports: data, over, port -> name
    FOUND = [
        (b'__MARK', TCP, 80, 'run'), (b'GEMARK', TCP, 80, 'run'), (b'_', TCP, 80, b''),
        (b'__MA', TCP, 80, b''), (b'__MA', UDP, 80, None), (b'__MB', TCP, 80, None),
        (b'__M', TCP, 7, b''), (b'__x', TCP, 7, 'last'), (b'__x', TCP, 80, None),
        (b'GET ', TCP, 80, 'http'), (b'GET x', TCP, 25, 'http'), (b'GE', TCP, 80, b''),
        (b'get x\n', TCP, 80, 'cache'), (b'gEt\n', TCP, 80, 'cache'), (b'get', TCP, 80, b''),
        (b'get', UDP, 80, 'cache'), (b'getx ', TCP, 80, None), (b'ge t', TCP, 80, None),
        (b'HELO x\n', TCP, 80, 'mail'), (b'helo', TCP, 80, b''), (b'h', TCP, 80, b''),
        (b'hel', UDP, 80, None), (b'QUIT\r\n', TCP, 25, 'mail'), (b'QUIT\r\n', TCP, 11, 'cache'),
        (b'QUIT\r\n', TCP, 80, None), (b'Zz', TCP, 80, b''), (b'Zz', UDP, 80, None),
        (b'\1\1', TCP, 80, 'one'), (b'\1\1', TCP, 25, 'one'), (b'\1\1', TCP, 502, 'other'),
        (b'\1\2', TCP, 502, b''), (b'\1\2__', TCP, 502, None),
    ]
    FOUND_TOYS = [
        toy(None, '.. .. 4d 41 52 4b', name='run'), toy(None, '.. ..', name='last', ports=(7,)),
        toy(None, b'GET ', name='http', ports=(80,)),
        toy(None, '01 01', name='other', ports=(502,)), toy(None, '01 01', name='one', ports=(25,)),
        toy(None, '', name='cache', words=(b'GET',), shared=(b'QUIT',), ports=(11,)),
        toy(None, '', name='mail', words=(b'HELO',), shared=(b'QUIT',), ports=(25,))]

    def test_index(self):
        """Signatures that begin anywhere or nowhere, words in any case, ports that break ties."""
        for order in self.FOUND_TOYS, self.FOUND_TOYS[::-1]:
            for data, over, port, name in self.FOUND:
                with self.subTest(data=data, over=over, port=port):
                    self.assertEqual(self.find(order, data, over, port), name)

    def test_strict(self):
        """A port that has owners speaks nothing else; all others speak everything."""
        for data, port, name in ((b'GET x', 80, 'http'), (b'GET x', 25, None),
                                 (b'HELO x\n', 25, 'mail'), (b'HELO x\n', 80, None),
                                 (b'HELO x\n', 81, 'mail'), (b'__MARK', 25, None),
                                 (b'__MARK', 81, 'run')):
            self.assertEqual(self.find(self.FOUND_TOYS, data, port=port, strict=True), name,
                             (data, port))

    def test_find_asks_few(self):
        """With 200 protocols no more signatures are looked at than with those that fit."""
        draw = random.Random(SEED)
        many = [toy(None, bytes(draw.randrange(256) for _ in range(4)), name='toy%d' % number)
                for number in range(150)]
        many += [toy(None, '', name='text%d' % number, words=(b'VERB%d' % number,))
                 for number in range(50)]
        index = masscanned.Registry(many + list(masscanned.PROTOCOLS.values())).index[TCP]
        self.assertLess(max(map(len, index.lists.values())), 8)
        self.assertLess(len(index.runs), 4)

    def test_choose_protocols(self):
        choose, everything = masscanned.choose_protocols, list(masscanned.PROTOCOLS.values())

        def names(*args):
            return sorted(each.name for each in choose(*args))
        self.assertEqual(choose(None, []), everything)
        self.assertEqual(names('http, ssh', []), ['http', 'ssh'])
        self.assertEqual(names(None, ['http', 'dns']),
                         sorted(set(masscanned.PROTOCOLS) - {'http', 'dns'}))
        for args in (('nope', []), (None, ['nope']), ('', []), ('http,,ssh', [])):
            with self.assertRaises(masscanned.UserError):
                choose(*args)
        stream = masscanned.Stream(PEER4, HOST4, 1, 80, NOW, quiet_host(choose('ssh', [])))
        self.assertEqual((stream.feed(GET), stream.deaf), (b'', True))

    # ---- talks -----------------------------------------------------------------------

    # helper of the toolkit: data, where the first message ends
    ENDS = [
        (masscanned.fix(4), b'', 4), (masscanned.be(2, 2, 4), b'abc', None),
        (masscanned.be(2, 2, 4), b'ab\1\2', 262), (masscanned.le(0, 3, 4), b'\5\0\0', 9),
        (masscanned.le(0, 3, 4), b'\5\0', None), (masscanned.till(b'\r\n'), b'ab\r', None),
        (masscanned.till(b'\r\n'), b'ab\r\nc', 4), (masscanned.till(b'x'), b'', None),
        (masscanned.line, b'\n', 1), (masscanned.line, b'ab\ncd\n', 3),
        (masscanned.varint(1), b'\x10', None), (masscanned.varint(1), b'\x10\0', 2),
        (masscanned.varint(1), b'\x10\x7f', 129), (masscanned.varint(1), b'\x10\x80', None),
        (masscanned.varint(1), b'\x10\x80\1', 131), (masscanned.varint(1), b'\x10\x80\x80\x80', None),
        (masscanned.varint(1), b'\x10\xff\xff\xff\x7f', 268435460),
        (masscanned.varint(1), b'\x10\x80\x80\x80\x80', -1),
        (masscanned.ber, b'0', None), (masscanned.ber, b'0\x7f', 129), (masscanned.ber, b'0\x80', -1),
        (masscanned.ber, b'0\x81', None), (masscanned.ber, b'0\x81\x80', 131),
        (masscanned.ber, b'0\x84\0\0\1\0', 262), (masscanned.ber, b'0\x85', -1),
    ]

    def test_ends(self):
        for number, (size, data, end) in enumerate(self.ENDS):
            self.assertEqual(size(data), end, (number, data))

    def test_ber(self):
        inner = masscanned.pack_der(4, b'x' * 200)
        outer = masscanned.pack_der(0x30, inner, b'\5\0')
        self.assertEqual(masscanned.parse_ber(outer), (0x30, 3, len(outer)))
        tag, start, end = masscanned.parse_ber(outer, 3)
        self.assertEqual((tag, outer[start:end], end), (4, b'x' * 200, 3 + len(inner)))
        self.assertEqual(masscanned.parse_ber(outer, end), (5, len(outer), len(outer)))
        for cut in b'', b'0', outer[:-1], b'0\x80\0\0':
            with self.assertRaises(masscanned.Malformed):
                masscanned.parse_ber(cut)

    @contextlib.contextmanager
    def registered(self, *names):
        """Protocols registered inside are gone afterwards."""
        protocols, families = dict(masscanned.PROTOCOLS), len(masscanned.FAMILIES)
        masscanned.family('toys')
        try:
            yield
        finally:
            masscanned.PROTOCOLS.clear()
            masscanned.PROTOCOLS.update(protocols)
            del masscanned.FAMILIES[families:]

    def test_talk(self):
        """Whole messages in, in pieces or not; what a function may return, and raise."""
        given = {b'1': b'one', b'2': b'', b'3': None, b'4': (b'bye', masscanned.SHUT),
                 b'5': masscanned.Reply(b'five'), b'6': masscanned.Reply(b'six', used=1),
                 b'7': IndexError(), b'8': ValueError(), b'9': struct.error()}
        with self.registered():
            @masscanned.talk('toy', sig=(b'x',), port=9, ref='RFC 1 s1', size=masscanned.be(1, 1, 2),
                             limit=100, over=(TCP, UDP), most=9)
            def answer(message, peer):
                """Any -> what is given."""
                seen.append(message)
                value = given[message[2:]]
                if isinstance(value, Exception):
                    raise value
                return value
            toy_talk = masscanned.PROTOCOLS['toy']
        self.assertEqual(toy_talk.answer.__doc__, 'Any -> what is given.')
        for data, out, used, deaf in (
                (b'x\x011', b'one', 3, False), (b'x\x012x\x011', b'one', 6, False),
                (b'x\x013', b'', 3, True), (b'x\x014x\x011', b'bye', 6, True),
                (b'x\x015x', b'five', 3, False), (b'x\x017', b'', 3, True),
                (b'x\x018', b'', 3, True), (b'x\x019', b'', 3, True), (b'x', b'', 0, False),
                (b'x\x01', b'', 0, False), (b'x\x63', b'', 2, True), (b'x\x62', b'', 0, False)):
            for pieces in [data], octet_by_octet(data):
                with self.subTest(data=data, pieces=len(pieces)):
                    seen, stream = [], toy_stream(toy_talk)
                    self.assertEqual(feed(stream, *pieces), out)
                    self.assertEqual((stream.deaf, len(data) - len(stream.kept)), (deaf, len(data) if deaf
                                                                                   else used))
        seen = []
        self.assertEqual(toy_stream(toy_talk).feed(b'x\x016xx'), b'six')       # the rest is no message
        self.assertEqual(toy_stream(toy_talk, over=UDP).feed(b'x\x77' + b'1'), b'one')     # a datagram is one

    def test_lines(self):
        """Verbs in any case, on the owner's port or everywhere; the last line needs no end."""
        with self.registered():
            masscanned.lines('toy', 'A verb -> its reply.', words=(b'HELO',), shared=(b'QUIT',),
                             port=25, ref='RFC 1 s1', other=b'500\r\n', replies={
                                 b'HELO': lambda rest, peer: b'250 %s\r\n' % rest,
                                 b'QUIT': b'221\r\n', b'NOOP': b''})
            table = masscanned.PROTOCOLS['toy']
        self.assertEqual((table.answer.__doc__, table.ports), ('A verb -> its reply.', (25,)))
        for data, out, closing in (
                (b'HELO me \r\n', b'250 me\r\n', False), (b'helo\n', b'250 \r\n', False),
                (b'Helo x\nnoop\nwhat\nQuit\nhelo\n', b'250 x\r\n500\r\n221\r\n', True),
                (b'HELO ' + b'x' * 2042 + b'\n', b'250 ' + b'x' * 2042 + b'\r\n', False),
                (b'HELO ' + b'x' * 2043 + b'\n', b'', False), (b'quit\n', b'', False)):
            for pieces in [data], octet_by_octet(data):
                stream = toy_stream(table)
                self.assertEqual((feed(stream, *pieces), stream.closing), (out, closing), data[:9])
        stream = toy_stream(table)
        self.assertEqual((stream.feed(b'helo y'), stream.hurry(), stream.kept),
                         (b'', b'250 y\r\n', b''))
        stream = toy_stream(table)
        stream.dport = 25
        self.assertEqual(stream.feed(b'quit\r\n'), b'221\r\n')

    def test_hurry(self):
        """After a while the strongest whole signature decides, and nobody turns deaf."""
        toys = [toy(lambda data, peer: b'two', b'AB', name='two'),
                toy(lambda data, peer: b'four', b'ABCD', name='four')]
        stream = toy_stream(*toys)
        self.assertEqual((stream.feed(b'AB'), stream.hurry()), (b'', b'two'))
        stream = toy_stream(*toys)
        self.assertEqual((stream.feed(b'A'), stream.hurry(), stream.deaf), (b'', b'', False))
        self.assertEqual((stream.feed(b'BCD'), stream.hurried), (b'four', False))

    def test_again(self):
        """Who grants hands the rest of the conversation to the registry: http inside."""
        def grant(data, peer):
            peer.state = 'kept'
            return masscanned.Reply(b'granted;', 5, again=True) if len(data) >= 5 else b''
        stream = toy_stream(toy(grant, b'grant'), masscanned.PROTOCOLS['http'])
        self.assertEqual(stream.feed(b'grant' + GET[:9]), b'granted;')
        self.assertEqual((stream.protocol and stream.protocol.name, stream.state), ('http', None))
        self.assertEqual(stream.feed(GET[9:] + GET), KEEP * 2)
        stream = toy_stream(toy(grant, b'grant'))
        self.assertEqual(stream.feed(b'grant' * 3), b'granted;' * 3)
        stream = toy_stream(toy(lambda *_: masscanned.Reply(b'', 0, again=True)))
        self.assertEqual((stream.feed(b'xx'), stream.stalled, stream.kept), (b'', False, b'xx'))

    def test_kept_by(self):
        class State:
            def cost(self):
                return 7
        for state, cost in ((None, 0), (True, 0), (1 << 99, 0), (1.5, 0), (b'abc', 3), ('ab', 2),
                            ((b'ab', 1, [b'c', State()]), 10), (State(), 7), (b'', 0), ((), 0)):
            self.assertEqual(masscanned.kept_by(state), cost, state)
        stream = toy_stream(answer_lines)
        stream.feed(b'xyz')
        stream.state = b'12345'
        self.assertEqual(stream.cost(), 8)

    # ---- streams ---------------------------------------------------------------------

    def test_more_and_used(self):
        stream = toy_stream(answer_lines)
        self.assertEqual(stream.feed(b'x'), b'')
        self.assertEqual(stream.feed(b'yz\nsecond\nthi'), b'[xyz][second]')
        self.assertEqual((stream.kept, stream.deaf, stream.stalled), (b'thi', False, False))
        self.assertEqual(stream.feed(b'rd\n'), b'[third]')

    def test_octets_take_all(self):
        stream = toy_stream(lambda data, peer: b'<%s>' % data)
        self.assertEqual([stream.feed(each) for each in (b'xa', b'b')], [b'<xa>', b'<b>'])

    def test_nothing_and_malformed_are_deaf(self):
        def malformed(data, peer):
            raise masscanned.Malformed('test')
        for answer in (lambda data, peer: None), malformed:
            self.assertEqual(toy_stream(answer, over=UDP).feed(b'x'), b'')
            stream = toy_stream(answer)
            stream.state = 'something'
            self.assertEqual((stream.feed(b'x'), stream.deaf, stream.kept, stream.state),
                             (b'', True, b'', None))
            self.assertEqual((stream.feed(b'x' * 70000), stream.kept), (b'', b''))
        stream = toy_stream(answer_lines)
        self.assertEqual((stream.feed(b'not x\n'), stream.deaf), (b'', True))

    def test_skip(self):
        def answer(data, peer):
            if peer.state is None and len(data) < 2:
                return masscanned.MORE
            calls.append(data)
            peer.state = None if peer.state else 'body'
            if peer.state:
                return masscanned.Reply(b'head', used=2, skip=5)
            return masscanned.Reply(b'end', used=0)
        for pieces in ([b'xy12345'], [b'xy', b'12345'], [b'xy1', b'23', b'45'],
                       octet_by_octet(b'xy12345')):
            calls, stream = [], toy_stream(answer)
            self.assertEqual(stream.feed(pieces[0]) + b''.join(map(stream.feed, pieces[1:])),
                             b'headend', pieces)
            self.assertEqual((calls[-1], stream.kept, stream.skip), (b'', b'', 0))
        calls, stream = [], toy_stream(answer)
        self.assertEqual(stream.feed(b'xy12345xy'), b'headendhead')
        self.assertEqual(calls, [b'xy12345xy', b'xy', b'xy'])
        self.assertEqual((stream.skip, stream.feed(b'1234'), stream.skip), (5, b'', 1))

    def test_close(self):
        stream = toy_stream(lambda data, peer: masscanned.Reply(b'bye', used=1, close=True))
        self.assertEqual(stream.feed(b'xxx'), b'bye')
        self.assertEqual((stream.closing, stream.deaf, stream.kept), (True, True, b''))
        self.assertEqual(stream.feed(b'x'), b'')

    def test_out_max(self):
        stream = toy_stream(lambda data, peer: masscanned.Reply(b'y' * 1000, used=1))
        sizes = [len(stream.feed(b'x' * 100))]
        while stream.stalled:
            sizes.append(len(stream.feed(b'')))
        self.assertEqual(sum(sizes), 100000)
        self.assertLess(max(sizes), masscanned.OUT_MAX + 1000)
        self.assertEqual(len(sizes), 6)

    def test_many_small_requests(self):
        """However many say nothing, what follows is reached."""
        calls = []

        def answer(data, peer):
            calls.append(len(data))
            return masscanned.Reply(used=1)
        stream = toy_stream(answer)
        self.assertEqual(stream.feed(b'x' * 1000), b'')
        self.assertEqual((len(calls), len(stream.kept)), (masscanned.STEPS_MAX,
                                                          1000 - masscanned.STEPS_MAX))
        self.assertEqual((feed(stream, b'x' * 9000), stream.stalled, stream.kept),
                         (b'', False, b''))
        self.assertEqual(len(calls), 10000)
        self.assertLessEqual(max(calls), masscanned.WINDOW)

    def test_kept_max(self):
        stream = toy_stream(lambda data, peer: masscanned.MORE)
        stream.feed(b'x' * masscanned.KEPT_MAX)
        self.assertEqual((len(stream.kept), stream.deaf), (masscanned.KEPT_MAX, False))
        stream.feed(b'x')
        self.assertEqual((stream.kept, stream.deaf), (b'', True))
        stream = toy_stream(lambda data, peer: masscanned.MORE, over=UDP)
        self.assertEqual(stream.feed(b'x' * 100), b'')
        stream = toy_stream(lambda data, peer: masscanned.Reply(data[:1000], used=1000))
        out = stream.feed(b'x' * 90000)         # what waits for the client's ACK is not too much
        self.assertEqual((stream.deaf, stream.stalled), (False, True))
        self.assertGreater(len(stream.kept), masscanned.KEPT_MAX)
        self.assertEqual(len(out) + len(feed(stream, b'')), 90000)

    def test_pieces(self):
        draw = random.Random(SEED)
        for _ in range(50 * BULK):
            data = b'x' + bytes(draw.choice(b'ab\n') for _ in range(draw.randrange(900)))
            pieces = random_pieces(data, draw)
            with self.subTest(pieces=pieces, seed=SEED):
                self.assertEqual(feed(toy_stream(answer_lines), *pieces),
                                 feed(toy_stream(answer_lines), data))

    def test_host(self):
        one, other = masscanned.Host(), masscanned.Host()
        self.assertNotEqual((one.guid, one.name), (other.guid, other.name))
        self.assertRegex(one.name, r'^WIN-[A-Z0-5]{11}$')
        self.assertEqual((len(one.guid), HOST.name), (16, 'WIN-RRRRRRRRRRR'))


# ==== Responder: answerers ============================================================

class Answerers(unittest.TestCase):
    """Every vector: whole, in pieces, doubled, cut, changed, and its answer sent back."""

    def test_vectors(self):
        for name, over, request, answer, source in VECTORS:
            with self.subTest(name=name, over=over, source=source):
                stream = open_stream(name, over)
                out = feed(stream, request)
                self.assertEqual((getattr(stream, 'port', 0), out), expected_of(answer))
                if out:
                    self.assertEqual(stream.protocol.name, name.split()[0])

    def test_pieces(self):
        draw = random.Random(SEED)
        for name, over, request, answer, _ in VECTORS:
            if over == TCP:
                with self.subTest(name=name, seed=SEED):
                    _, expected = expected_of(answer)
                    if len(request) < 1000 or TEST_ALL and len(request) < 30000:
                        self.assertEqual(
                            feed(open_stream(name, over), *octet_by_octet(request)), expected)
                    self.assertEqual(
                        feed(open_stream(name, over), *random_pieces(request, draw)), expected)

    def test_doubled(self):
        draw = random.Random(SEED)
        for name, over, request, answer, _ in VECTORS:
            if over == TCP:
                with self.subTest(name=name, seed=SEED):
                    stream = open_stream(name, over)
                    out = feed(stream, request)
                    again = not (stream.deaf or stream.kept or stream.skip or stream.state)
                    whole = feed(open_stream(name, over), request * 2)
                    if again:
                        self.assertEqual(whole, out * 2)
                    self.assertEqual(feed(open_stream(name, over), request, request), whole)
                    self.assertEqual(
                        feed(open_stream(name, over), *random_pieces(request * 2, draw)), whole)

    def test_cut(self):
        """At each length: no exception, and no answer that is not the answer's beginning."""
        most = 10000 if TEST_ALL else 48
        for name, over, request, answer, _ in VECTORS:
            _, expected = expected_of(answer)
            for end in range(0, len(request), 1 + len(request) // most):
                stream = open_stream(name, over)
                out = feed(stream, request[:end])
                if over == TCP and not expected.startswith(out):
                    self.fail((name, end, out))

    def test_changed(self):
        """One octet or more: no exception, and pieces are answered as the whole."""
        draw = random.Random(SEED)
        for name, over, request, _, _ in VECTORS:
            if len(request) > 3000 and not TEST_ALL:
                continue
            for _ in range(2 * BULK):
                changed = mutate(request, draw)
                whole = feed(open_stream(name, over), changed)
                if over == TCP and whole != feed(open_stream(name, over),
                                                 *random_pieces(changed, draw)):
                    self.fail('SEED=%d %s %s' % (SEED, name, changed.hex()))

    def test_trailing_octets(self):
        for name, over, request, _, _ in VECTORS:
            for more in b'\0', b'\xff' * 40, b'\r\n\r\n':
                feed(open_stream(name, over), request + more)

    def test_own_answers_are_no_requests(self):
        """Sent back to whoever asked, and to the ports where more is taken for a request."""
        for name, over, _, answer, _ in VECTORS:
            _, out = expected_of(answer)
            if not out:
                continue
            with self.subTest(name=name):
                if over == UDP:
                    self.assertEqual(feed(open_stream(name, UDP, 40000), out), b'')
                back = feed(open_stream(name, TCP, 40000), out)
                if out.startswith(GH0ST):       # its magic might be all: one answer, then no more
                    self.assertEqual(back, GH0ST)
                else:
                    self.assertEqual(back, b'')
                for port in 53, 5353:           # they say FORMERR to much, but not to that
                    back = feed(open_stream(name, UDP, port), out)
                    self.assertEqual(feed(open_stream(name, UDP, port), back) if back else b'',
                                     b'')

    def test_notes(self):
        """What a login offers is noted, once."""
        class Noting(masscanned.Stream):
            def note(self, kind, **fields):
                seen.append((kind, fields))
        for name, request, notes in NOTED:
            with self.subTest(name=name, request=request):
                kind = 'command' if name == 'distcc' else 'credentials'
                for pieces in [request], octet_by_octet(request):
                    seen, port = [], port_of(name)
                    feed(Noting(PEER4, HOST4, 40000, port, NOW, HOST), *pieces)
                    self.assertEqual(seen, [(kind, fields) for fields in notes])

    def test_small_services_do_not_loop(self):
        """Datagrams from a port that may be such a service's are not answered."""
        for name in 'chargen', 'daytime', 'echo', 'qotd', 'time':
            for sport in 7, 13, 17, 19, 37, 53, 123, 161, 40000:
                peer = Datagrams(UDP, PEER4, HOST4, sport, port_of(name), NOW, HOST)
                self.assertEqual(bool(peer.feed(b'~' * 40)), sport == 40000, (name, sport))

    def test_random_payloads(self):
        """Of random octets on a port of nobody's fewer than 1 in 5,000 get an answer."""
        draw = random.Random(SEED)
        answered = 0
        for _ in range(60000 if TEST_ALL else 2000):
            data = draw.getrandbits(8 * 40).to_bytes(40, 'big')[:draw.choice((1, 4, 12, 40))]
            for over in TCP, UDP:
                stream = make_talk(over, PEER4, HOST4, 40000, 40001, NOW, HOST)
                out = stream.feed(data)
                answered += bool(out or over == TCP and stream.hurry())
        self.assertLessEqual(answered, 24 if TEST_ALL else 3, 'SEED=%d' % SEED)

    def test_random_of_smb(self):
        """Challenges, ids and salts differ from connection to connection."""
        draws = random.Random(SEED)
        host = masscanned.Host(lambda size: bytes(draws.randrange(256) for _ in range(size)))

        def talk(*requests):
            stream = masscanned.Stream(PEER4, HOST4, 40000, 445, NOW, host)
            return stream, [stream.feed(request) for request in requests]
        seen = set()
        for _ in range(3):
            _, (_, two) = talk(NEGOTIATE_2, FIRST_2)
            _, (one,) = talk(FIRST_1)
            self.assertNotEqual(two[44:52], bytes(8))
            seen.update((two[44:52], two[-238 + 24:][:8], one[32:34]))
        self.assertEqual(len(seen), 9)
        for request, at, end in ((FIRST_2, 44, 52), (FIRST_1, 32, 34)):
            stream, (first,) = talk(request)    # a logon under way keeps its id
            again = stream.feed(request[:at] + first[at:end] + request[end:])
            self.assertEqual(again[at:end], first[at:end])
            self.assertNotEqual(stream.feed(request)[at:end], first[at:end])

    def test_dates(self):
        for now, text in ((0, b'Thu, 01 Jan 1970 00:00:00 GMT'), (NOW,
                          b'Sat, 21 Nov 2026 01:46:41 GMT'),
                          (1709164799.9, b'Wed, 28 Feb 2024 23:59:59 GMT'),
                          (1709164800, b'Thu, 29 Feb 2024 00:00:00 GMT'),
                          (2 ** 32, b'Sun, 07 Feb 2106 06:28:16 GMT')):
            self.assertEqual(masscanned.pack_http_date(now), text)
            stream = masscanned.Stream(PEER4, HOST4, 1, 80, now, HOST)
            self.assertIn(b'\r\nDate: %s\r\n' % text, stream.feed(GET))

    # ---- what killed the original, and what tries to kill us -------------------------

    def test_stun_attributes(self):
        """Overrunning, unaligned, empty, of lying length, in every position."""
        head = unhex('2112a442', IDENT)
        for kind in (0x0001, 0x0003, 0x0006, 0x0009, 0x000a, 0x0020, 0x8022, 0x8028, 0x7777):
            for said in (0, 1, 2, 3, 4, 5, 7, 8, 20, 255, 256, 0x7fff, 0xfffc, 0xffff):
                for there in (0, 1, 3, 4, 8, 20, 256, 260):
                    for magic in head, unhex(CLASSIC):
                        body = struct.pack('!HH', kind, said) + bytes(there)
                        request = struct.pack('!HH', 1, len(body)) + magic + body
                        for over in UDP, TCP:
                            out = feed(open_stream('stun', over), request)
                            if said + -said % 4 > there:
                                self.assertEqual(out, b'', request.hex())

    def test_http_not_utf8(self):
        stack, told = make_stack(host=masscanned.Host()), []
        stack.host.events = []
        for uri in b'/\xff', b'/\xc3\x28', b'/\x1b[2J', b'/\x80' * 100:
            request = b'GET ' + uri + b' HTTP/1.1\r\n\r\n'
            self.assertTrue(ask(stack, udp(request, dport=80))[0].data.startswith(HTTP_LINE))
            self.assertEqual(Client(stack).talk(request), KEEP)
        with patched(masscanned, say=told.append):
            masscanned.hand_events(stack, [masscanned.Teller()], NOW)
        self.assertEqual(len(told), 8)
        for text in told:
            self.assertTrue(text.isprintable(), text)

    def test_dns_loops(self):
        """Compression pointers to themselves, to each other, in a long chain, forwards."""
        names = ['c00c', '0161 c00c', '0161 c00e', 'c00e c00c', '3f' + '61' * 63 + 'c00c',
                 'c000', 'cfff', 'ffff', 'c00d', 'c0', '0161 c0']
        for name in names:
            for count in 1, 2, 64:
                for records in ('0000', '0001', 'ffff'):
                    query = unhex('1234 0100 %04x' % count, records, '0000', records,
                                  (name + A_IN) * count, name, '0029 04d0 00000000 0000')
                    for over in UDP, TCP:
                        out = feed(open_stream('dns', over, 53),
                                   query if over == UDP else framed(query))
                        self.assertLess(len(out), 2 * len(query) + 60)
        chain = ''.join('0161 c0%02x' % (12 + (8 * max(0, at - 1))) + A_IN for at in range(20))
        begin = time.process_time()
        for _ in range(20):
            feed(open_stream('dns', UDP), unhex('1234 0100 0014 0000 0000 0000', chain))
        self.assertLess(time.process_time() - begin, 1)

    def test_rpc_lengths(self):
        """Credentials and strings of 2^32-1: refused at once, nothing kept."""
        for size in 'ffffffff', '7fffffff', '80000000', '00000191', 'fffffffd':
            for auth in ('00000001' + size, NO_AUTH + '00000001' + size):
                for over, mark in ((UDP, False), (TCP, False), (TCP, True)):
                    request = unhex(rpc_call(2, 0, auth=auth))
                    stream = open_stream('rpc', over)
                    out = feed(stream, marked(request) if mark else request)
                    self.assertEqual(out[-20:-16], unhex(XID), size)
                    feed(stream, bytes(70000))
                    self.assertLessEqual(len(stream.kept), masscanned.KEPT_MAX)
        for mark in 'ffffffff', '7fffffff', '80010000', '00010000', '80000000', '00000000':
            stream = open_stream('rpc', TCP)
            feed(stream, unhex(mark) + GETPORT, bytes(70000))
            self.assertLessEqual(len(stream.kept), masscanned.KEPT_MAX)

    def test_smb_lying_lengths(self):
        """Every 16 and 32 bits of the requests set to extremes: lengths, offsets, counts."""
        step = 1 if TEST_ALL else 5
        for name, request in (('1', FIRST_1), ('1', SPEC_NEGOTIATE), ('2', NEGOTIATE_2),
                              ('2', FIRST_2), ('2', THIRD_2)):
            for at in range(4, min(len(request) - 4, 160), step):
                for lie in (b'\xff\xff', b'\0\0', b'\xff\x7f', b'\xff\xff\xff\xff', bytes(4),
                            b'\1\0'):
                    lying = request[:at] + lie + request[at + len(lie):]
                    out = feed(open_stream('smb ' + name, TCP), lying)
                    self.assertLess(len(out), 1000)
                    while out:                  # each answer as long as it says
                        size = int.from_bytes(out[:4], 'big')
                        self.assertLessEqual(size, len(out) - 4)
                        out = out[4 + size:]

    # what makes one frame dear: name, port, octets
    DEAR = [
        ('smtp verbs', 25, b'NOOP\n' * 290), ('smtp words', 25, b'x\n' * 700),
        ('imap', 143, b'1 NOOP\n' * 200), ('imap literals', 143, b'1 {1}\n' * 230),
        ('irc', 6667, b'NICK x\n' * 200), ('ftp logins', 21, b'USER x\nPASS y\n' * 100),
        ('smtp logins', 25, b'AUTH LOGIN\nYQ==\nYQ==\n' * 66),
        ('telnet options', 23, b'\xff\xfd\x27' * 480), ('telnet lines', 23, b'\n' * 1400),
        ('telnet no end', 23, b'\xff\xfa' * 700), ('xmpp', 5222, XMPP_HELLO % b'x' + b'<a>' * 400),
        ('xmpp heads', 5222, b'<stream:stream>' * 95), ('distcc', 3632, b'DIST00000001' * 120),
        ('svn', 3690, b'( 2 ( ' * 230), ('memcached', 11211, b'get a\n' * 240),
        ('memcached values', 11211, b'set a 0 0 0\n\r\n' * 100),
        ('sip fields', 5060, SIP_HEAD % (b'OPTIONS', b'OPTIONS') + b'Via: x\n' * 150 + b'\n'),
        ('sip', 5060, (SIP_HEAD % (b'OPTIONS', b'OPTIONS') + b'\r\n') * 7),
        ('rtsp', 554, b'OPTIONS * RTSP/1.0\n\n' * 70), ('asterisk', 5038, b'Action: x\n\n' * 120),
        ('lpd', 515, b'\2lp\n' + b'\x021 x\nab' * 160), ('clamd', 3310, b'PING\n' * 290),
        ('rsync', 873, b'@RSYNCD: 31.0\n' * 100), ('pjl', 9100, b'@PJL INFO ID\n' * 110),
        ('gearman-job', 4730, unhex('00524551 00000010 00000000') * 120),
        ('dns', 53, unhex(ROOTS)), ('dns-tcp', 53, framed(unhex(ROOTS))),
        ('dns records', 53, unhex('1234 0100 0001 0000 0000 0040 00', A_IN,
                                  ('00 0010 0001 00000000 0000') * 64)),
        ('http lines', 80, b'GET / HTTP/1.1\r\n' + b'a:\n' * 470 + b'\r\n'),
        ('http 250 lines', 80, b'GET / HTTP/1.1\r\n' + b'a:xx\n' * 250 + b'\r\n'),
        ('http head cut short', 80, b'GET / HTTP/1.1\r\n' + b'a:\n' * 470),
        ('http framing', 80, b'GET / HTTP/1.1\r\n' + b'Expect:a\n' * 150 + b'\r\n'),
        ('http values', 80, b'GET / HTTP/1.1\r\nConnection:' + b'a,' * 700 + b'\r\n\r\n'),
        ('http chunks', 80, post(CHUNKED, b'1\nx\n' * 350)),
        ('http empty bodies', 80, post(CHUNKED, b'0\n\n') * 25),
        ('http pipelined', 80, b'GET / HTTP/1.1\n\n' * 90),
        ('rpc', 111, marked(unhex(rpc_call(4, 4))) * 30),
        ('rpc fragments', 111, unhex('00000001 00') * 15 + marked(unhex(rpc_call(2, 4))) * 30),
        ('smb1', 445, SPEC_NEGOTIATE * 20), ('smb2', 445, NEGOTIATE_2 * 14),
        ('smb keep-alives', 445, NEGOTIATE_2 + unhex('85000000') * 330),
        ('ssh', 22, b'SSH-2.0-x\n' * 140), ('gh0st', 8000, b'Gh0st' * 290),
        ('stun', 3478, (unhex('0001 0000 2112a442') + bytes(12)) * 70),
        ('stun attributes', 3478, struct.pack('!HH', 1, 1440) + unhex('2112a442') + bytes(12)
         + b''.join(struct.pack('!HH', 0x7000 + kind, 0) for kind in range(360))),
    ]

    @staticmethod
    def work_of(frame, stack):
        """Calls, of functions in C as well, that a frame takes: time without a clock."""
        count = 0

        def note(*_):
            nonlocal count
            count += 1
        sys.setprofile(note)
        try:
            stack.answer_frame(frame)
        finally:
            sys.setprofile(None)
        return count

    def test_work(self):
        """No frame takes more than 20 times the work of a DNS query, and memories do not matter."""
        query = self.work_of(udp(QUERY), make_stack())
        self.assertGreater(query, 50)
        for name, port, data in self.DEAR:
            masscanned.read_http.cache_clear()
            masscanned.reply_http.cache_clear()
            frames = [udp(data[:1472], dport=port)]
            stack = make_stack()
            frames.append(Client(stack, port).frame(data[:1460]))
            for over, frame in zip(('udp', 'tcp'), frames):
                with self.subTest(name=name, over=over):
                    self.assertLessEqual(self.work_of(frame, stack), 20 * query)

    def test_slow_requests(self):
        """What is sent in small pieces costs no more than a small multiple of its size."""
        for name, data in (('http', b'GET /' + b'x' * 16000), ('gh0st', b'Gh0st' * 3000),
                           ('smb', b'\0\0\xff\xff\xffSMB' + b'x' * 15000),
                           ('http', post(CHUNKED, b'1\r\nx\r\n' * 2500)),
                           ('rpc', unhex(rpc_call(3, 3, 'ffffffff' * 4)) + bytes(10000))):
            begin = time.process_time()
            stream = open_stream(name, TCP)
            feed(stream, *[data[at:at + 8] for at in range(0, len(data), 8)])
            self.assertLess(time.process_time() - begin, 2, name)


# ==== Responder: stack ================================================================

# Frames of the original that ours must equal: name, request, answer
EXACT = [
    ('ARP', arp(dst=MAC), '020000000001 521c4ec2a41f 0806'
     '0001080006040002 521c4ec2a41f c0000001 020000000001 c0000000'),
    ('ARP to broadcast, padded', arp(more=b'padded up to sixty'), '020000000001 521c4ec2a41f 0806'
     '0001080006040002 521c4ec2a41f c0000001 020000000001 c0000000'),
    ('ARP of IEEE 802', arp(hardware=6), '020000000001 521c4ec2a41f 0806'
     '0001080006040002 521c4ec2a41f c0000001 020000000001 c0000000'),
    ('ARP probe', arp(sender=bytes(4)), '020000000001 521c4ec2a41f 0806'
     '0001080006040002 521c4ec2a41f c0000001 020000000001 00000000'),
    ('echo', ping(), '020000000001 521c4ec2a41f 0800 45000020000040004001badbc0000001c0000000'
     '0000290412340001 61626364'),
    ('echo, padded', ping() + bytes(18), '020000000001 521c4ec2a41f 0800'
     '45000020000040004001badbc0000001c0000000 0000290412340001 61626364'),
    ('echo with IPv4 options', ping(options=unhex('01010100 94040000')),
     '020000000001 521c4ec2a41f 0800 45000020000040004001badbc0000001c0000000'
     '0000290412340001 61626364'),
    ('echo to ff:ff:ff:ff:ff:ff', ping(mac=b'\xff' * 6), '020000000001 521c4ec2a41f 0800'
     '45000020000040004001badbc0000001c0000000 0000290412340001 61626364'),
    ('echo of 4', ping(b''), '020000000001 521c4ec2a41f 0800'
     '45000018000040004001bae3c0000001c0000000 0000ffff'),
    ('ICMPv6 echo', ping(**V6), '020000000001 521c4ec2a41f 86dd 60000000000c3a40' + OWN6 + CLIENT6
     + '8100128312340001 61626364'),
    ('ICMPv6 echo, atomic fragment', packet(unhex('3a000000 00000007') + ping(**V6)[54:], 44,
                                            **V6),
     '020000000001 521c4ec2a41f 86dd 60000000000c3a40' + OWN6 + CLIENT6
     + '8100128312340001 61626364'),
    ('NS', solicitation(mac=unhex('3333ff32bdb8')), '020000000001 521c4ec2a41f 86dd'
     '6000000000203aff' + OWN6 + CLIENT6 + '880070ae 60000000' + OWN6 + '0201 521c4ec2a41f'),
    ('NS, unicast, no option', solicitation(dst=HOST6, options=b''),
     '020000000001 521c4ec2a41f 86dd 6000000000203aff' + OWN6 + CLIENT6 + '880070ae 60000000'
     + OWN6 + '0201 521c4ec2a41f'),
    ('Gh0st', udp(b'Gh0st'), '020000000001 521c4ec2a41f 0800'
     '45000032000040004011bab9c0000001c0000000 00359c40001e5a6a'
     '47683073741600000001000000789c63000000010001'),
    ('Gh0st without a checksum', udp(b'Gh0st', total=0), '020000000001 521c4ec2a41f 0800'
     '45000032000040004011bab9c0000001c0000000 00359c40001e5a6a'
     '47683073741600000001000000789c63000000010001'),
]

# SYN flags that are answered, besides SYN (original s11.1; ECN and AE: masscanned.md)
OPENINGS = {0, PSH, URG, CWR, ECE, PSH | URG, PSH | CWR, PSH | ECE, PSH | URG | CWR,
            PSH | URG | ECE, URG | CWR, URG | ECE, ECE | CWR}


class Stack(unittest.TestCase):
    """Frames in, frames out; every answer is read by code of our own."""

    def test_exact(self):
        stack = make_stack()
        for name, request, answer in EXACT:
            with self.subTest(name=name):
                self.assertEqual([each.hex() for each in stack.answer_frame(request)],
                                 [unhex(answer).hex()])
                self.assertEqual(stack.counts, {})
                read_answer(stack.answer_frame(request)[0])

    def test_exact_stun(self):
        """The changed port, and XOR-MAPPED-ADDRESS besides what the original says."""
        request = unhex('0001 0008 2112a442 000102030405060708090a0b 0003 0004 00000006')
        answer, = ask(make_stack(), udp(request, dport=3478))
        self.assertEqual((answer.sport, answer.dport), (3479, 40000))
        self.assertEqual(answer.data, unhex('0101 0018 2112a442 000102030405060708090a0b',
                                            '0001 0008 00 01 9c40 c0000000', XMAPPED))

    def test_exact_syn(self):
        """But for the cookie, its checksum and the MSS option as the original."""
        for src, dst, mss in ((PEER4, HOST4, '05b4'), (PEER6, HOST6, '05a0')):
            frame, = make_stack().answer_frame(tcp(1000, 0, SYN, sport=1111, src=src, dst=dst))
            answer = read_answer(frame)
            self.assertEqual((answer.sport, answer.dport, answer.ack, answer.flags, answer.data),
                             (80, 1111, 1001, SYN | ACK, b''))
            self.assertEqual(answer.options, unhex('0204', mss))
            self.assertEqual(frame[:12], CLIENT_MAC + MAC)
            self.assertEqual((answer.src, answer.dst), (dst, src))

    # ---- silence ---------------------------------------------------------------------

    def test_silence(self):
        stacks = {}
        for name, frame, options, fate in SILENCE:
            with self.subTest(name=name):
                if callable(frame):
                    stack = make_stack(**options)
                    frame = frame(stack)
                else:
                    if str(options) not in stacks:
                        stacks[str(options)] = make_stack(**options)
                    stack = stacks[str(options)]
                stack.counts.clear()
                stack.fate = None
                self.assertEqual(list(stack.answer_frame(frame)), [])
                self.assertEqual((stack.fate, stack.counts), (fate, {fate: 1}))

    def test_silence_is_complete(self):
        """Each fate that the source names has a row above."""
        text = inspect.getsource(masscanned)
        text = text[text.index('\n# ==== 4 Stack'):text.index('\n# ==== 5 Events')]
        fates = set(re.findall(r"'((?:eth|arp|ipv4|ipv6|icmpv4|icmpv6|tcp|udp) [a-z ]+)'", text))
        self.assertIn("'ipv%d short'", text)
        self.assertGreater(len(fates), 40)
        self.assertEqual(fates - {row[3] for row in SILENCE}, {'eth fault'})   # test_faults
        self.assertEqual({row[3] for row in SILENCE} - fates, set())
        self.assertEqual(len({row[0] for row in SILENCE}), len(SILENCE))

    def test_silence_is_near_an_answer(self):
        """What stands in the rows is wrong in one thing only: the right frames are answered."""
        listed, unlisted = make_stack(), make_stack(own='')
        for frame in (ping(), ping(**V6), arp(), solicitation(), udp(QUERY), udp(QUERY, **V6),
                      tcp(1, 0, SYN), tcp(1, 0, SYN, **V6), udp(QUERY, total=0),
                      solicitation(src=bytes(16), options=b''),
                      packet(unhex('3a000104 00000000') + ping(**V6)[54:], 0, **V6),
                      packet(unhex('3a000000 00000000') + ping(**V6)[54:], 43, **V6),
                      ping(tags=unhex('81000001')), ping(mac=unhex('01005e000001')),
                      ping(src=packed('240.0.0.1')), udp(QUERY, src=packed('9.9.9.9'), sport=0)):
            with self.subTest(frame=frame.hex()):
                self.assertEqual(len(ask(listed, frame)), 1)
        for frame in ping(), arp(), tcp(1, 0, SYN), udp(QUERY), ping(**V6), udp(QUERY, **V6):
            self.assertEqual(len(ask(unlisted, frame)), 1)
        for size in 28, 48:
            frame = udp(LONG_GET, dport=80) if size == 28 else udp(LONG_GET, dport=80, **V6)
            self.assertEqual(ask(make_stack(mtu=size + len(KEEP)), frame)[0].data, KEEP)
        self.assertEqual(ask(unlisted, solicitation(TARGET, mac=unhex('3333ff32bdb9')))[0].src,
                         TARGET)

    def test_faults(self):
        stack = make_stack()
        for number in range(20):
            self.assertEqual(stack.fault(ValueError(number), b'frame'), ())
        self.assertEqual((stack.fate, stack.counts), ('eth fault', {'eth fault': 20}))
        self.assertEqual(len(stack.faults), masscanned.FAULTS_KEPT)

    def test_no_checksum(self):
        """verify=False and `trusted`: layer 4, and without verify the IPv4 header, too."""
        frames = [spoil(each) for each in (ping(), ping(**V6), tcp(1, 0, SYN), udp(QUERY),
                                           udp(QUERY, **V6), solicitation())]
        frames += [spoil(tcp(1, 0, SYN, **V6), -5), udp(QUERY, total=0, **V6)]
        strict, lax = make_stack(), make_stack(verify=False)
        for frame in frames:
            with self.subTest(frame=frame.hex()):
                self.assertEqual(list(strict.answer_frame(frame)), [])
                self.assertEqual(len(lax.answer_frame(frame)), 1)
                self.assertEqual(len(strict.answer_frame(frame, True)), 1)
        frame = spoil(ping(), 24)
        self.assertEqual(len(lax.answer_frame(frame)), 1)
        self.assertEqual(list(strict.answer_frame(frame, True)), [])

    # ---- layers 2 and 3 --------------------------------------------------------------

    def test_tags(self):
        for tags in ('81000007', '8100e007', '88a80001 81000002', '81000001 81000002', '91000003',
                     '88a80fff'):
            for frame in (ping, arp, solicitation):
                with self.subTest(tags=tags):
                    answer, = ask(make_stack(), frame(tags=unhex(tags)))
                    self.assertEqual(answer.tags, unhex(tags))
            answer, = ask(make_stack(), tcp(1, 0, SYN, tags=unhex(tags)))
            self.assertEqual((answer.tags, answer.flags), (unhex(tags), SYN | ACK))

    def test_accepted_macs(self):
        def hears(own, mac):
            stack = make_stack(own=own)
            stack.answer_frame(mac + CLIENT_MAC + b'\x12\x34' + bytes(46))
            return stack.fate == 'eth type'
        for own, mac, heard in (
                ('', '333300000001', True), ('', '3333ff123456', True),
                ('', '01005e000001', False), ('', '333300000002', False),
                ('170.153.136.119', '01005e000001', True), ('::1', '01005e000001', False),
                ('170.153.136.119', '01005e198877', True),
                ('170.153.136.119', '01005e198876', False),
                ('170.153.136.119', '3333ff123456', False), ('::aabb:ccdd', '3333ffbbccdd', True),
                ('::aabb:ccdd', '3333ffbbccde', False), ('10.0.0.0/8', '01005e198877', True),
                ('2001:db8::/64', '3333ff123456', True), ('2001:db8::/64', '333300123456', False),
                ('10.0.0.0/8', 'ffffffffffff', True), ('10.0.0.0/8', '01005d000000', False)):
            with self.subTest(own=own, mac=mac):
                self.assertEqual(hears(own, unhex(mac)), heard)

    def test_denied_and_not(self):
        stack = make_stack(deny='192.0.0.2,2001:41d0::1234:5679')
        for frame in ping(), ping(**V6), tcp(1, 0, SYN), solicitation():
            self.assertEqual(len(ask(stack, frame)), 1)
        for src in map(packed, ('1.0.0.0', '223.255.255.255', '240.0.0.0', '255.255.255.254')):
            for frame in ping(src=src), tcp(1, 0, SYN, src=src):
                self.assertEqual(len(ask(stack, frame)), 1)
        for src in map(packed, ('0.255.255.255', '224.0.0.0', '239.255.255.255')):
            for frame in ping(src=src), tcp(1, 0, SYN, src=src):
                self.assertEqual(ask(stack, frame), [])

    def test_defaults(self):
        stack = masscanned.Stack(MAC)
        stack.host.events = []
        for where in ({}, V6):
            self.assertIn(b'\r\n\r\n<html>', Client(stack, sport=0x8700, **where).talk(GET))
            self.assertEqual(len([udp(b'Gh0st', **where) for _ in range(99)
                                  if stack.answer_frame(udp(b'Gh0st', **where))]), 64)
        self.assertEqual(masscanned.ip_text(stack.take_events()[-1].peer.src),
                         '2001:41d0::1234:5678')

    def test_multicast(self):
        """Answered from the first of our addresses, UDP and echo only."""
        own = '10.0.0.9,10.0.0.1,2001:db8::9,2001:db8::1'
        src4, src6 = packed('10.0.0.77'), packed('2001:db8::77')
        for src, dst, ours in ((src4, ALL_NODES4, '10.0.0.9'), (src4, b'\xff' * 4, '10.0.0.9'),
                               (src6, ALL_NODES6, '2001:db8::9')):
            for frame in [udp(QUERY, src=src, dst=dst)] + [ping(src=src, dst=dst)] * (
                    len(src) == 16):
                answer, = ask(make_stack(own), frame)
                self.assertEqual((answer.src, answer.dst), (packed(ours), src))
        query = unhex('1234 0100', ONE, WWW, AAAA_IN)
        answer, = ask(make_stack(own), udp(query, src=src6, dst=ALL_NODES6))
        self.assertIn(packed('2001:db8::9'), answer.data)
        for own, dst, ours in (
                ('192.0.0.9,224.0.0.251', MDNS4, '192.0.0.9'),      # a listed one
                ('192.0.0.0/24', packed('192.0.0.255'), '192.0.0.1'),
                ('192.0.0.0/24', packed('192.0.0.0'), '192.0.0.1'),
                ('2001:db8::9,ff02::fb', packed('ff02::fb'), '2001:db8::9'),
                ('2001:db8::9', packed('ff02::1:ff00:9'), '2001:db8::9'),
                ('2001:db8::9', packed('ff01::1'), '2001:db8::9')):
            with self.subTest(own=own, dst=dst.hex()):
                src = src4 if len(dst) == 4 else src6
                answer, = ask(make_stack(own, place=WIDE['place']), udp(QUERY, src=src, dst=dst))
                self.assertEqual((answer.src, answer.dst), (packed(ours), src))

    def test_own_network(self):
        """A list may cover the network and broadcast address: all between them are answered."""
        stack = make_stack(**WIDE)
        for last, count in (0, 0), (1, 1), (128, 1), (254, 1), (255, 0):
            dst = packed('192.0.0.%d' % last)
            src = packed('192.0.1.2')
            for frame in tcp(1, 0, SYN, src=src, dst=dst), ping(src=src, dst=dst), arp(dst):
                self.assertEqual(len(ask(stack, frame)), count, last)
            self.assertEqual(bool(stack.answer_alike([tcp(1, 0, SYN, src=src, dst=dst)] * 9)),
                             bool(count))
        for own in '192.0.0.0/24', '':
            stack = make_stack(**dict(WIDE, own=own))
            for src, dst in ('192.0.0.255', '192.0.0.7'), ('192.0.1.7', '192.0.0.255'):
                frames = [tcp(1, 0, SYN, src=packed(src), dst=packed(dst))] * 9
                self.assertIsNone(stack.answer_alike(frames))

    def test_set_place(self):
        """The surroundings change: what is a broadcast, and what the host has itself."""
        hosts = frozenset(map(ipaddress.ip_address, ('192.0.0.7', '10.9.9.9', '2001:41d0::ab32:bdb8')))
        stack = make_stack('192.0.0.0/24,2001:41d0::ab32:bdb8', mtu=576)
        self.assertEqual((stack.four.shared, stack.six.shared), (frozenset(), frozenset()))
        dst = packed('192.0.0.255')
        self.assertEqual(len(ask(stack, tcp(1, 0, SYN, src=packed('192.0.1.2'), dst=dst))), 1)
        stack.set_place(WIDE['place']._replace(hosts=hosts))
        self.assertEqual((stack.four.shared, stack.six.shared),
                         ({0xc0000007}, {int.from_bytes(HOST6, 'big')}))
        self.assertEqual(ask(stack, tcp(1, 0, SYN, src=packed('192.0.1.2'), dst=dst)), [])
        answer, = ask(stack, tcp(1, 0, SYN, src=packed('192.0.1.2')))
        self.assertEqual(answer.options, unhex('0204 0218'))
        answer, = ask(stack, tcp(1, 0, SYN, **V6))
        self.assertEqual(answer.options, unhex('0204 0204'))
        stack.set_place(masscanned.NO_PLACE)
        self.assertEqual(len(ask(stack, tcp(1, 0, SYN, src=packed('192.0.1.2'), dst=dst))), 1)

    def test_set_mtu(self):
        """Another MTU: the MSS of SYN+ACKs, one by one and in columns, and the room for UDP."""
        stack = make_stack()
        for mtu in 9000, 1280, 1500:
            stack.set_mtu(mtu)
            for where in {}, V6:
                answer, = ask(stack, tcp(1, 0, SYN, **where))
                self.assertEqual(answer.options, struct.pack('!HH', 0x204, mtu - 40 - 20 * bool(where)))
            syn = tcp(1, 0, SYN)
            self.assertEqual(list(stack.answer_alike([syn] * 9)),
                             [stack.answer_ether(syn, False)[0]] * 9)
        stack.set_mtu(28 + len(KEEP) - 1)
        self.assertEqual(ask(stack, udp(LONG_GET, dport=80)), [])
        stack.set_mtu(28 + len(KEEP))
        self.assertEqual(len(ask(stack, udp(LONG_GET, dport=80))), 1)

    def test_loopback(self):
        """Clients of 127/8 and ::1 are heard on a loopback interface."""
        place = masscanned.NO_PLACE._replace(loopback=True)
        for own in '', '127.0.0.2,::2':
            stack = make_stack(own, mac=bytes(6), place=place)
            for src, dst in ('127.0.0.1', '127.0.0.2'), ('::1', '::2'):
                where = dict(src=packed(src), dst=packed(dst), mac=bytes(6), client=bytes(6))
                for frame in ping(**where), tcp(1, 0, SYN, **where), udp(QUERY, **where):
                    self.assertEqual(len(ask(stack, frame)), 1)

    def test_icmp_as_linux(self):
        """Echo of any code, timestamp: what Linux answers, to the millisecond since midnight UTC."""
        for where in {}, V6:
            for code in 1, 7, 255:
                answer, = ask(make_stack(), ping(code=code, **where))
                self.assertEqual(answer.data[:2] + answer.data[4:], bytes(
                    (129 if where else 0, code)) + unhex('1234 0001 61626364'))
        stack = make_stack()
        stack.tick(86400 * 1000 + 3723.5)
        asked = unhex('1234 0001 0000002a 99999999 99999999')
        for more in b'', b'more':
            answer, = ask(stack, ping(asked + more, kind=13, code=3))
            self.assertEqual(answer.data[:2] + answer.data[4:], unhex(
                '0e00 1234 0001 0000002a') + struct.pack('!II', 3723500, 3723500))

    def test_ipv6_without_list(self):
        """Solicited-node multicast is accepted, and every target answered."""
        frame = solicitation(TARGET, mac=unhex('3333ff32bdb9'))
        answer, = ask(make_stack(own=''), frame)
        self.assertEqual((answer.src, answer.dst, answer.data[8:24]), (TARGET, PEER6, TARGET))

    def test_duplicate_address_detection(self):
        answer, = ask(make_stack(), solicitation(src=bytes(16), options=b''))
        self.assertEqual((answer.src, answer.dst), (HOST6, ALL_NODES6))
        self.assertEqual(answer.client, unhex('333300000001'))
        self.assertEqual(answer.data[:4], unhex('8800') + answer.data[2:4])
        self.assertEqual(answer.data[4:], unhex('20000000', OWN6, '0201') + MAC)    # S=0, O=1

    def test_solicitation_cut(self):
        """At every length, with right checksums: this killed the original."""
        whole = bytes(4) + HOST6 + LINK_OPTION
        for own in BOTH_OWN, '':
            stack = make_stack(own)
            for end in range(len(whole) + 1):
                answers = ask(stack, icmp6(135, whole[:end], dst=SOLICITED6, hops=255))
                self.assertEqual(len(answers), 1 if end in (20, 28) else 0, end)
        frame = solicitation()
        stack = make_stack()
        for end in range(len(frame)):
            self.assertEqual(list(stack.answer_frame(frame[:end])), [])

    def test_lengths_of_headers(self):
        """Every IHL, total length, data offset, with checksums right: no exception."""
        stack = make_stack()
        for ihl in range(16):
            for total in (0, 19, 20, 24, 40, 60, 79, 80, 81, 65535):
                frame = packet(tcp_data(1, 0, SYN, bytes(40)), 6, vihl=0x40 | ihl, total=total)
                for answer in ask(stack, frame):
                    self.assertEqual((ihl, answer.flags), (5, SYN | ACK))
        for offset in range(16):
            for flags in SYN, PSH | ACK, ACK, FIN | ACK, RST:
                for size in 0, 1, 20, 40:
                    for where in ({}, V6):
                        answers = ask(stack, tcp(1, 0, flags, bytes(size), offset=offset,
                                                 **where))
                        self.assertEqual(len(answers), int(
                            flags == SYN and 20 <= offset * 4 <= 20 + size), (offset, size))

    # ---- SYN -------------------------------------------------------------------------

    def test_flags(self):
        """All 512 of them, with options, over both versions; each answer is right or none."""
        stack = make_stack()
        for flags in range(512):
            opening = flags & SYN and not flags & (ACK | FIN | RST) and (
                flags & ~(SYN | AE) in OPENINGS)
            for options in b'', unhex('020405b4'), unhex('0101080a0000000100000000'):
                for where in ({}, V6):
                    answers = ask(stack, tcp(7, 0, flags, b'', options, sport=flags, **where))
                    if opening:
                        self.assertEqual([(each.flags, each.ack) for each in answers],
                                         [(SYN | ACK, 8)], flags)
                    else:
                        self.assertEqual(answers, [], flags)
        self.assertEqual(len(stack.connections.table), 0)

    def random_syn(self, draw):
        """A SYN, mostly right, with something special now and then -> (frame, trusted)."""
        def seldom(often, *others):
            return draw.choice(others) if draw.random() < 0.08 else often
        options = draw.choice((b'', unhex('020405b4'), unhex('0204ffff'), unhex('02040001'),
                               unhex('020405b40402080a000000010000000001030307'),
                               bytes(draw.choice((0, 1, 2, 3, 4)) for _ in range(
                                   4 * draw.randrange(11)))))
        src = seldom(bytes((draw.randrange(256), 0, 0, draw.randrange(4))),
                     *map(packed, ('224.0.0.1', '255.255.255.255', '0.0.0.0', '0.1.2.3',
                                   '240.0.0.1', '192.0.0.1', '10.9.8.7', '127.0.0.1')))
        dst = seldom(HOST4, *map(packed, ('192.0.0.2', '224.0.0.1', '0.0.0.5', '240.0.0.1',
                                          '255.255.255.255', '10.0.0.1')))
        flags = seldom(SYN, SYN | ECE, SYN | CWR, SYN | ECE | CWR, SYN | AE, SYN | PSH, SYN | ACK,
                       SYN | RST, SYN | URG, SYN | 0x200, SYN | ECE | CWR | AE, 0)
        segment = tcp_data(draw.randrange(1 << 32), draw.choice((0, 1, ONES)), flags,
                           seldom(b'', b'x', b'GET / HTTP/1.1\r\n\r\n'), options,
                           draw.randrange(65536), draw.choice((0, 80, 65535)), src, dst,
                           seldom(None, 0, 4, 5, 6, 15))
        extra = {name: seldom(None, *others) for name, others in (
            ('vihl', (0x65, 0x44, 0x46, 0x4f, 0x55)), ('total', (0, 39, 40, 44, 65535)))}
        frame = packet(segment, seldom(6, 1, 17, 58), src, dst,
                       seldom(MAC, b'\xff' * 6, unhex('01005e000001'), unhex('521c4ec2a41e')),
                       seldom(CLIENT_MAC, MAC, unhex('010000000001')), seldom(
                           b'', unhex('81000001'), unhex('88a80001 81000001')),
                       frag=seldom(0x4000, 0, 0x8000, 0x2000, 1, 0x1fff),
                       options=seldom(b'', unhex('01010101'), unhex('94040000')), **extra)
        frame += seldom(b'', bytes(6), b'padding')
        if draw.random() < 0.1:
            frame = spoil(frame, draw.randrange(len(frame)), 1 << draw.randrange(8))
        return frame[:seldom(None, 53, 54, 57, 20)], draw.random() < 0.2

    def test_quick_syn(self):
        """The short cut for SYNs says what the layers say, frame for frame."""
        draw = random.Random(SEED)
        stacks = [make_stack(own, deny, verify=verify)
                  for own in (BOTH_OWN, '', '192.0.0.0/24,224.0.0.1,0.0.0.5,240.0.0.1',
                              '192.0.0.0/8', '2001:db8::1')
                  for deny in ('', '10.0.0.0/8') for verify in (True, False)]
        quick = 0
        for _ in range(1500 * BULK):
            frame, trusted = self.random_syn(draw)
            stack = draw.choice(stacks)
            layers = [each.hex() for each in stack.answer_ether(frame, trusted)]
            if layers:
                self.assertEqual([each.hex() for each in stack.answer_frame(frame, trusted)],
                                 layers, 'SEED=%d' % SEED)
                with unittest.mock.patch.object(stack, 'answer_ether', return_value=()):
                    quick += bool(stack.answer_frame(frame, trusted))
            else:
                stack.fate = None
                self.assertEqual((list(stack.answer_frame(frame, trusted)), stack.fate is None),
                                 ([], False), 'SEED=%d %s' % (SEED, frame.hex()))
        self.assertGreater(quick, 200)

    def test_plain_by_words(self):
        """The test that PyPy does, word by word, says what one mask says."""
        draw, stack = random.Random(SEED), make_stack()
        for _ in range(300 * BULK):
            frame = self.random_syn(draw)[0]
            if len(frame) >= masscanned.PLAIN4.size:
                masked = int.from_bytes(frame[:24], 'big') & masscanned.PLAIN_MASK
                self.assertEqual(stack.is_special(frame), masked != stack.plain, frame.hex())

    def test_quick_segment(self):
        """So does the one for other segments, through whole conversations."""
        draw, requests = random.Random(SEED), (GET, GET * 3, GET[:20], GET[20:], b'SSH-2.0-a\r\n', b'', b'')
        sizes = set()
        for _ in range(40 * BULK):
            verify, options = draw.random() < 0.8, draw.choice((b'', unhex('02040040')))
            quick, layers = make_stack(verify=verify), make_stack(verify=verify)
            layers.answer_frame = layers.answer_ether
            client, again = (Client(stack, options=options) for stack in (quick, layers))
            for _ in range(12):
                fields = dict(seq=(client.seq + draw.choice((0, 0, 0, -1, 1, -20))) & ONES,
                              ack=(client.ack + draw.choice((0, 0, 0, -1, 1, -90))) & ONES,
                              options=draw.choice((b'', bytes((1, 1, 1, 1)))))
                flags = draw.choice((ACK, PSH | ACK, PSH | ACK, FIN | ACK, FIN | PSH | ACK, ACK,
                                     RST, RST | ACK, PSH, SYN | ACK, URG | ACK, AE | ACK))
                offset = draw.choice((None,) * 16 + (0, 4, 6, 15))
                frame = tcp(data=draw.choice(requests), flags=flags, offset=offset, **fields,
                            **client.where) + draw.choice((b'', b'', bytes(6)))
                plain = offset is None and draw.random() < 0.9
                if not plain:
                    frame = spoil(frame, draw.randrange(len(frame)), 1 << draw.randrange(8))
                trusted = draw.random() < 0.2
                expected = [each.hex() for each in layers.answer_frame(frame, trusted)]
                quick.answer_ether = None if plain else type(quick).answer_ether.__get__(quick)
                self.assertEqual([each.hex() for each in quick.answer_frame(frame, trusted)],
                                 expected, 'SEED=%d %s' % (SEED, frame.hex()))
                self.assertEqual((quick.counts, quick.connections.held, client.conn is None),
                                 (layers.counts, layers.connections.held, again.conn is None))
                answers = client.take([read_answer(unhex(each)) for each in expected])
                sizes.update(len(answer.data) for answer in answers)
                client.seq = client.conn.rcv if client.conn else client.seq
        self.assertTrue(any(size & 1 for size in sizes) and len(KEEP) in sizes, sizes)

    def test_quick_datagram(self):
        """And the one for UDP: every request, whole or spoilt, with sums or without."""
        draw = random.Random(SEED)
        rows = [row for row in VECTORS if row[1] == UDP and len(row[2]) < 1400]
        answered = 0
        for row in rows + draw.sample(rows, len(rows) // 4) * BULK:
            verify, trusted = draw.random() < 0.8, draw.random() < 0.2
            tokens = draw.choice((0, 9, 9, 9))
            quick, layers = (make_stack(verify=verify, budget=masscanned.Budget(tokens, tokens))
                             for _ in range(2))
            data = row[2] if draw.random() < 0.8 else mutate(row[2], draw)[:1400]
            wrong = draw.choice((None,) * 8 + (0, 7, 8, 9, len(data) + 9, 65535))
            frame = udp(data, draw.randrange(65536), draw.choice((0, 53, port_of(row[0]))),
                        size=wrong, total=draw.choice((None, None, None, 0, 1)))
            plain = wrong is None and draw.random() < 0.9
            if not plain:
                frame = spoil(frame, draw.randrange(len(frame)), 1 << draw.randrange(8))
            expected = [each.hex() for each in layers.answer_ether(frame, trusted)]
            if expected and plain and len(frame) >= 54:
                quick.answer_ether = None
            self.assertEqual([each.hex() for each in quick.answer_frame(frame, trusted)],
                             expected, 'SEED=%d %s' % (SEED, frame.hex()))
            self.assertEqual(quick.counts, layers.counts)
            answered += bool(expected)
        self.assertGreater(answered, len(rows) // 5)

    def test_unclaimed(self):
        """What nobody claims is not looked at again in the same round; its token is taken."""
        odd = QUERY[:-2] + unhex('1234')            # no class that a DNS server would know
        budget = masscanned.Budget(burst=5, rate=0)
        stack = make_stack(budget=budget)
        for port, data, looks, silent in ((9, odd, 1, True), (9, odd, 1, True), (53, odd, 2, False),
                                          (9, odd + b'!', 3, True), (9, odd, 3, True)):
            with unittest.mock.patch.object(stack.host.registry, 'find',
                                            wraps=stack.host.registry.find) as find:
                stack.fate = None
                answers = stack.answer_frame(udp(data, dport=port, src=packed('192.0.0.9')))
                self.assertEqual((not answers, stack.fate), (silent, 'udp silence' if silent else None))
        self.assertEqual(budget.bucket(packed('192.0.0.9')[:3], NOW)[0], 0)
        self.assertEqual(stack.unclaimed, {(9, odd), (9, odd + b'!')})
        silent = unittest.mock.Mock(most=1, **{'answer.return_value': None})
        with unittest.mock.patch.object(stack.host.registry, 'find', return_value=silent):
            for count in 1, 2:                  # silent, but claimed: it may say more next time
                self.assertEqual(list(stack.answer_frame(udp(b'claimed'))), [])
                self.assertEqual(silent.answer.call_count, count)
        stack.tick(NOW + 1)
        self.assertEqual(stack.unclaimed, set())

    def test_quick_ping(self):
        """And the one for pings, whole or spoilt, of odd sizes too."""
        draw = random.Random(SEED)
        answered = 0
        for _ in range(300 * BULK):
            verify, trusted = draw.random() < 0.8, draw.random() < 0.2
            quick, layers = make_stack(verify=verify), make_stack(verify=verify)
            rest = bytes(draw.randrange(256) for _ in range(draw.choice((0, 3, 4, 16, 17, 56))))
            frame = ping(rest, kind=draw.choice((8,) * 9 + (0, 13)), code=draw.choice((0,) * 9 + (1,)))
            frame += bytes(max(60 - len(frame), 0))
            if draw.random() < 0.3:
                frame = spoil(frame, draw.randrange(len(frame)), 1 << draw.randrange(8))
            elif frame[34:36] == b'\x08\0':
                quick.answer_ether = None
            expected = layers.answer_ether(frame, trusted)
            self.assertEqual(list(quick.answer_frame(frame, trusted)), list(expected),
                             'SEED=%d %s' % (SEED, frame.hex()))
            self.assertEqual(quick.counts, layers.counts)
            answered += bool(expected)
        self.assertGreater(answered, 100)
        for data in b'\x08\0', b'\x08\0\xf7':
            frame = packet(data, 1).ljust(60, b'\0')
            stack = make_stack()
            self.assertEqual((list(stack.answer_frame(frame, True)), stack.fate),
                             ([], 'ipv4 short'))

    def test_openings(self):
        """A round of plain SYNs, answered in columns, says what single ones say."""
        draw = random.Random(SEED)
        for options in (b'', unhex('020405b4'), unhex('020405b4010104020101080a0000000100000000')):
            for own, ours in ((BOTH_OWN, HOST4), ('10.0.0.0/8', packed('10.255.255.254')),
                              ('', packed('223.255.255.255'))):
                for count in 1, 2, 33:
                    stack = make_stack(own, '172.16.0.0/12')
                    frames = [packet(tcp_data(draw.choice((0, ONES, draw.randrange(1 << 32))),
                                              draw.choice((0, 0, 5)), SYN, b'',
                                              options[:2] + draw.choice((
                                                  options[2:4], b'\xff\xff'[:len(options)]))
                                              + options[4:], draw.randrange(65536),
                                              draw.randrange(65536), src, ours), 6, src, ours)
                              for src in (bytes((192, draw.randrange(169, 256), draw.randrange(256),
                                                 index)) for index in range(count))]
                    frames = [frame + b'\xa5' * max(60 - len(frame), 0) for frame in frames]
                    expected = [each.hex() for frame in frames
                                for each in stack.answer_ether(frame, False)]
                    self.assertEqual(len(expected), count)
                    self.assertEqual([each.hex() for each in stack.answer_alike(frames)],
                                     expected, 'SEED=%d' % SEED)
        self.assertEqual(stack.counts, {})

    def test_openings_hashed_slowly(self):
        """Where hash() is no SipHash, a round has the cookies of single frames, too."""
        frames = [tcp(7, 0, SYN, sport=port) for port in range(1, 40)]
        with patched(masscanned, flow_hash=masscanned.hash_slowly):
            stack = make_stack()
            self.assertEqual(list(stack.answer_alike(frames)),
                             [answer for frame in frames for answer in stack.answer_frame(frame)])

    def test_fold(self):
        """Sums of a round, modulo 65535; where they are only compared, twice is enough."""
        sums = [1, 65534, 65535, 65536, 0x1fffe, 0x1ffff, 65535 << 24, (1 << 40) - 1,
                (1 << 40) - 256, *range(0xfffff0, 0x1000010)]
        columns = masscanned.Openings([tcp(7, 0, SYN)] * len(sums), 40)
        lanes = columns.pack('Q', sums)
        self.assertEqual(columns.fold(lanes), columns.pack('Q', [(each - 1) % 65535 + 1
                                                                 for each in sums]))
        twice = columns.fold(lanes, 2).to_bytes(8 * len(sums), 'big')
        self.assertEqual([each == 65535 for each in struct.unpack('!%dQ' % len(sums), twice)],
                         [each % 65535 == 0 for each in sums])

    def test_replies(self):
        """Slices of them are what slices of their frames are, and rows have a head in front."""
        frames = [tcp(7, 0, SYN, sport=port) for port in range(1, 8)]
        replies = make_stack().answer_alike(frames)
        whole = list(replies)
        for first, end in (0, 7), (0, 3), (3, 7), (6, 9), (7, 9), (0, 0):
            part = replies[first:end]
            self.assertEqual((list(part), len(part)), (whole[first:end], len(whole[first:end])))
        for head, size in (b'ab', 64), (b'ab', 80), (b'0123456789', 72):
            self.assertEqual(bytes(replies.rows(head, size)), b''.join(
                (head + frame).ljust(size, b'\0') for frame in whole))

    def test_openings_or_none(self):
        """One frame that is no plain SYN, wherever it stands: none of the round is answered."""
        mine, other = packed('10.1.2.3'), unhex('020000000009')

        def syn(src=mine, dst=HOST4, flags=SYN, options=unhex('020405b4'), data=b'', **extra):
            return packet(tcp_data(7, 0, flags, data, options, 5, 80, src, dst), extra.pop(
                'proto', 6), src, dst, extra.pop('mac', MAC), extra.pop('client', CLIENT_MAC),
                extra.pop('tags', b''), **extra)
        rows = [('flags', syn(flags=SYN | ACK)), ('no SYN', syn(flags=ACK)),
                ('ECN', syn(flags=SYN | ECE | CWR)),
                ('options elsewhere', syn(options=unhex('01010101'))),
                ('size of the option', syn(options=unhex('020305b4'))),
                ('data for options', syn(options=b'', data=unhex('020405b4'))),
                ('fragment', syn(frag=0x2000)), ('offset', syn(frag=1)),
                ('protocol', syn(proto=17)), ('IP options', syn(options=b'', **{
                    'vihl': 0x46})), ('version', syn(vihl=0x65)), ('total', syn(total=40)),
                ('long', syn(total=65535)), ('MAC', syn(mac=b'\xff' * 6)),
                ('client MAC', syn(client=other)), ('own MAC', syn(client=MAC)),
                ('multicast MAC', syn(client=unhex('010000000001'))),
                ('tag', syn(options=b'', tags=unhex('81000001'))),
                ('IP sum', spoil(syn(), 24, 1)), ('TCP sum', spoil(syn(), 50, 1)),
                ('source', syn(packed('224.0.0.1'))), ('source 0', syn(packed('0.1.2.3'))),
                ('denied', syn(packed('172.16.0.1'))), ('from us', syn(HOST4)),
                ('not ours', syn(dst=packed('192.0.0.77'))), ('short', syn()[:53]), ('', b''),
                ('cut', syn(options=unhex('02040500'))[:57]), ('type', syn()[:12] + unhex('86dd') + syn()[14:])]
        for name, frame in rows:
            for at in (0, 1, 7):
                with self.subTest(name, at=at):
                    stack = make_stack(deny='172.16.0.0/12')
                    frames = [syn()] * 8
                    self.assertEqual(len(stack.answer_alike(frames)), 8)
                    frames[at] = frame
                    self.assertIsNone(stack.answer_alike(frames))
                    self.assertEqual((stack.counts, stack.fate), ({}, None))
            if name != 'client MAC':
                self.assertIsNone(stack.answer_alike([frame] * 8), name)
        for own, src, dst in (('', mine, mine), ('224.0.0.1,10.1.1.1', mine, packed('224.0.0.1')),
                              ('', mine, packed('240.0.0.1')), ('', mine, packed('0.0.0.1'))):
            self.assertIsNone(make_stack(own).answer_alike([syn(src, dst)] * 8), (own, dst))

    def test_openings_trust(self):
        """Sums are verified as for single frames."""
        right = tcp(7, 0, SYN)
        for at, verify, trusted, served in ((24, True, False, False), (24, True, True, False),
                                            (50, True, False, False), (50, True, True, True),
                                            (24, False, False, True), (50, False, False, True)):
            got = make_stack(verify=verify).answer_alike([right, spoil(right, at, 1)], trusted)
            self.assertEqual(bool(got), served, (at, verify, trusted))

    def test_columns_leave_connections_alone(self):
        """What comes on a connection is no part of a round in columns: the layers take it."""
        for flags in SYN, RST, RST | ACK:
            stack = make_stack()
            client = Client(stack, sport=5)
            client.say(GET[:9])
            frames = [tcp(client.seq, 0, flags, sport=port) for port in (4, 5, 6)]
            self.assertIsNone(stack.answer_alike(frames))
            self.assertEqual((len(stack.connections.table), stack.counts), (1, {}))
            with patched(masscanned, OPENINGS_MIN=2):
                answers = masscanned.answer_round(stack, frames, False, [])
            self.assertEqual(len(answers), 3 if flags == SYN else 0)
            self.assertEqual((len(stack.connections.table), stack.connections.held),
                             (1, 9) if flags == SYN else (0, 0))

    def test_resets(self):
        """RSTs are counted in columns; one of another shape, or wrong, is not among them."""
        for flags in RST, RST | ACK:
            frames = [tcp(7, 9, flags, sport=port) + bytes(6) for port in range(8)]
            stack = make_stack()
            self.assertEqual((stack.answer_alike(frames), stack.fate), ((), 'tcp reset'))
            self.assertEqual(stack.counts, {'tcp reset': 8})
            for other in (tcp(7, 9, flags ^ ACK) + bytes(6), tcp(7, 9, flags | PSH) + bytes(6),
                          tcp(7, 9, flags, b'why?'), tcp(7, 9, flags, b'', unhex('020405b4')),
                          spoil(frames[0], 50, 1), tcp(7, 9, SYN) + bytes(6)):
                for group in frames[:3] + [other], [other] * 2:
                    stack = make_stack()
                    if other[47] != flags and group[0] == other:
                        continue                # another kind, all of them
                    self.assertIsNone(stack.answer_alike(group), other.hex())
                    self.assertEqual(stack.counts, {})

    def mixed_round(self, draw):
        """A round of real traffic: scanners' SYNs in three shapes, RSTs, and whatever else."""
        shapes = b'', unhex('020405b4'), unhex('020405b40402080a000000010000000001030307')
        frames = []
        for _ in range(400):
            where = dict(sport=draw.randrange(65536), src=bytes((9, *draw.choices(range(256), k=3))))
            chance = draw.random()
            if chance < 0.6:
                frame = tcp(draw.randrange(1 << 32), 0, SYN, b'', draw.choice(shapes), **where)
            elif chance < 0.8:
                frame = tcp(7, 9, draw.choice((RST, RST | ACK)), **where)
            elif chance < 0.9:
                frame = udp(draw.choice((QUERY, b'?' * 9)))
            else:
                frame = draw.choice((self.random_syn(draw)[0], ping(), arp(), b'', bytes(60)))
            frames.append(frame + bytes(max(60 - len(frame), 0) if draw.random() < 0.7 else 0))
        return frames

    def test_round(self):
        """A mixed round: the answers of single frames, each observer told of each frame once."""
        draw = random.Random(SEED)
        for _ in range(4 * BULK):
            frames, one, seen = self.mixed_round(draw), make_stack(), []
            expected = [(frame, list(one.answer_frame(frame))) for frame in frames]
            watch, two = masscanned.Watch(0), make_stack()
            watch.frame = lambda now, *rest: seen.append(rest)
            answers = [list(masscanned.answer_round(two, frames, False, observers))
                       for observers in ([], [watch])]
            self.assertEqual(answers[0], answers[1], 'SEED=%d' % SEED)
            self.assertEqual(sorted(answers[0]), sorted(answer for _, got in expected
                                                        for answer in got), 'SEED=%d' % SEED)
            self.assertEqual({fate: 2 * count for fate, count in one.counts.items()}, two.counts)
            self.assertEqual(sorted((frame, list(got)) for frame, _, got in seen),
                             sorted(expected))
            self.assertEqual([bool(fate) for _, fate, _ in seen], [not got for _, _, got in seen])
            self.assertEqual([answer for _, _, got in seen for answer in got], answers[0])
            parts = [len(part) for part, quick in masscanned.split_round(two, frames, False)
                     if quick is not None]
            self.assertGreater(sum(parts), 120 if masscanned.OPENINGS_MIN < 400 else -1)

    def test_order_of_a_round(self):
        """What does not go in columns keeps its order of arrival, also what is taken out again."""
        plain = [tcp(7, 0, SYN, sport=port) for port in range(100, 140)]
        others = [udp(QUERY), ping(), spoil(tcp(7, 0, SYN), 50, 1), tcp(8, 0, RST), udp(b'?'),
                  tcp(7, 9, ACK), spoil(tcp(7, 1, SYN), 50, 1)]
        frames = plain[:]
        for place, frame in zip((0, 3, 20, 20, 40, 46, 46), others):
            frames.insert(place, frame)
        parts = list(masscanned.split_round(make_stack(), frames, False))
        self.assertEqual(parts[-1], ([frame for frame in frames if frame in parts[-1][0]], None))
        self.assertEqual([frame for frame in parts[-1][0] if frame not in plain],
                         [frame for frame in frames if frame not in plain])
        with patched(masscanned, OPENINGS_MIN=8):
            parts = list(masscanned.split_round(make_stack(), frames, False))
            self.assertGreater(len(parts), 1)
            self.assertEqual(parts[-1][0], [frame for frame in frames if frame in parts[-1][0]])
            self.assertEqual(sum(len(part) for part, _ in parts), len(frames))

    # TTL, window, identification and fragment word, options with their octets for a link of 1500
    FACES = [((), 64, 65535, 0x4000, unhex('020405b4')),
             ((128, 8192, 0x4000, (2, unhex('01030308'), unhex('01010402'))),
              128, 8192, 0x4000, unhex('020405b4 01030308 01010402')),
             ((255, 1, 0x12340000, ()), 255, 1, 0x12340000, b''),
             ((32, 29200, 0x4000, (unhex('0402'), 2, unhex('01030307'))),
              32, 29200, 0x4000, unhex('0402 020405b4 01030307 0101')),
             ((1, 0xfff0, 0, (2,) + (unhex('01010402'),) * 9), 1, 0xfff0, 0,
              unhex('020405b4') + unhex('01010402') * 9)]

    def test_faces(self):
        """Whoever we look like: layers, short cuts and columns say the same, and what it says."""
        draw = random.Random(SEED)
        for given, ttl, window, fragment, options in self.FACES:
            stack = make_stack(face=masscanned.Face(*given))
            frames = [tcp(draw.randrange(1 << 32), 0, SYN, b'', unhex('02040200'),
                          sport=draw.randrange(65536)) for _ in range(40)]
            layers = [each for frame in frames for each in stack.answer_ether(frame, False)]
            self.assertEqual([each for frame in frames for each in stack.answer_frame(frame)],
                             layers)
            self.assertEqual(list(stack.answer_alike(frames)), layers)
            for frame in layers:
                self.assertEqual((frame[18:22], frame[22], frame[48:50], frame[54:]), (
                    fragment.to_bytes(4, 'big'), ttl, window.to_bytes(2, 'big'), options))
            answer, = stack.answer_frame(tcp(7, 0, SYN, **V6))
            self.assertEqual((answer[21], answer[68:70], answer[74:].replace(
                unhex('05a0'), unhex('05b4'))), (ttl, window.to_bytes(2, 'big'), options))
            for frame in ping(), ping(bytes(56)):
                answer, = stack.answer_frame(frame)
                self.assertEqual([answer], list(stack.answer_ether(frame, False)))
                self.assertEqual((answer[18:22], answer[22]), (fragment.to_bytes(4, 'big'), ttl))
            answer, = stack.answer_frame(solicitation())
            self.assertEqual(answer[21], 255)

    def test_faces_of_conversations(self):
        """The same for what follows a SYN, and for datagrams."""
        for given, ttl, window, fragment, _ in self.FACES:
            quick, layers = (make_stack(face=masscanned.Face(*given)) for _ in range(2))
            quick.answer_ether = None
            opening, = quick.answer_frame(tcp(7, 0, SYN))
            ack = int.from_bytes(opening[38:42], 'big') + 1
            for frame in (tcp(8, ack, PSH | ACK, GET), tcp(8, ack, PSH | ACK, GET * 3),
                          tcp(8 + 3 * len(GET), ack, FIN | ACK), udp(QUERY)):
                answers = list(quick.answer_frame(frame))
                self.assertEqual(answers, layers.answer_ether(frame, False))
                self.assertTrue(answers)
                for answer in answers:
                    self.assertEqual((answer[18:22], answer[22]),
                                     (fragment.to_bytes(4, 'big'), ttl))
                    if answer[23] == 6:
                        self.assertEqual(answer[48:50], window.to_bytes(2, 'big'))
            opening, = quick.answer_frame(tcp(7, 0, SYN, dport=22))
            ack = int.from_bytes(opening[38:42], 'big') + 1
            quick.answer_frame(tcp(8, ack, ACK, dport=22))
            greeting, = quick.tick(NOW + 1)         # what no request causes looks the same
            self.assertEqual((greeting[18:22], greeting[22], greeting[48:50], greeting[54:]), (
                fragment.to_bytes(4, 'big'), ttl, window.to_bytes(2, 'big'), BANNER))

    def test_sums_of_zero(self):
        """RFC 1624: where a checksum of 0 is due, 0 is written; by UDP, where it is none, 0xffff."""
        def sums(ways, frame):
            got = [list(way(frame)) for way in ways]
            self.assertEqual(got, got[:1] * len(ways))
            head = 14 if got[0][0][12:14] == b'\x08\0' else 34
            at = head + 20 + {6: 16, 17: 6}.get(frame[23 if head == 14 else 20], 2)
            return int.from_bytes(got[0][0][at:at + 2], 'big'), int.from_bytes(
                got[0][0][24:26], 'big')
        stack = make_stack()
        ways = [lambda frame: stack.answer_ether(frame, False), stack.answer_frame]
        columns = ways + [lambda frame: stack.answer_alike([frame])]
        for ways4, where in ((columns, {}), (ways, V6)):
            with patched(masscanned, flow_hash=lambda _: 0):
                total = sums(ways4, tcp(7, 0, SYN, sport=0, **where))[0]
                self.assertEqual(sums(ways4, tcp(7, 0, SYN, sport=total, **where))[0], 0)
        with patched(masscanned, flow_hash=lambda _: 0):
            opening, = stack.answer_frame(tcp(7, 0, SYN))
            ack = int.from_bytes(opening[38:42], 'big') + 1
            total = sums(ways, tcp(8, ack, FIN | ACK, sport=0))[0]
            self.assertEqual(sums(ways, tcp(8, ack, FIN | ACK, sport=total))[0], 0)
        total = sums(ways, udp(QUERY, 9))[0]
        self.assertEqual(sums(ways, udp(QUERY, (9 + total) % 0xffff))[0], 0xffff)
        total = sums(columns, tcp(0, 0, SYN, src=bytes((9, 9, 0, 0))))[1]
        src = bytes((9, 9)) + total.to_bytes(2, 'big')
        self.assertEqual(sums(columns, tcp(0, 0, SYN, src=src))[1], 0)
        for frame in udp(QUERY, src=src), ping(src=src):
            sums(ways, frame)
        for size in 4, 56:
            self.assertEqual(sums(ways, ping(bytes(size)))[0], 0xffff)
            self.assertEqual(sums(ways, ping(b'\xff' * size))[0], 0)

    def test_round_fault(self):
        """A bug in the quick way is kept, and the frames are answered one by one."""
        stack, frames = make_stack(), [tcp(7, 0, SYN)] * 20
        with patched(masscanned, OPENINGS_MIN=20):      # all alike: uncut, for the ring
            self.assertIsInstance(masscanned.answer_round(stack, frames, False, []),
                                  masscanned.Replies)
        with unittest.mock.patch.object(masscanned, 'OPENINGS_MIN', 20), \
                unittest.mock.patch.object(stack, 'answer_alike', side_effect=KeyError):
            self.assertEqual(len(masscanned.answer_round(stack, frames, False, [])), 20)
        self.assertEqual((len(stack.faults), stack.counts), (1, {'eth fault': 1}))

    def test_count_ready(self):
        """Slots in front that hold frames of one trust."""
        for statuses, count in (([0, 1], 0), ([1], 1), ([1, 1, 1], 3), ([1, 1, 0, 1], 2),
                                ([1, 129, 1], 1), ([1, 9], 1), ([1, 3, 17, 1], 4), ([0, 0], 0),
                                ([129, 129, 131, 1], 3)):
            self.assertEqual(masscanned.count_ready(statuses), count, statuses)

    # what may be forged on a connection: flags, distance of seq and ack from what is due
    FORGED = [(SYN, 0, 0), (SYN, 77777, 5), (SYN | ECE | CWR, 0, 0), (RST, 1, 0), (RST, 65534, 0),
              (ACK, 0, 1), (PSH | ACK, 0, 1 << 31), (ACK, 0, -65536)]

    def test_challenges(self):
        """RFC 5961: they get an ACK, at most so many a second, and change nothing."""
        for where, (flags, seq, ack) in itertools.product(self.WHERES, self.FORGED):
            with self.subTest(flags=flags, seq=seq, ack=ack, **where):
                client = Client(make_stack(), **where)
                stack = client.stack
                client.say(GET[:9])
                frame = client.frame(b'junk', flags, client.seq + seq, client.ack + ack)
                if flags & SYN:
                    frame = client.frame(b'', flags, client.seq + seq, 0)
                for _ in range(masscanned.CHALLENGE_RATE):
                    answer, = ask(stack, frame)
                    self.assertEqual((answer.flags, answer.seq, answer.ack, answer.data),
                                     (ACK, client.ack, client.seq, b''))
                self.assertEqual((ask(stack, frame), len(stack.counts)), ([], 1))
                self.assertEqual(client.talk(GET[9:]), KEEP)
                stack.tick(NOW + 0.5)
                self.assertEqual(len(ask(stack, client.frame(b'', SYN, 5, 0))), 1)
        waiting = self.greeted()
        answer, = waiting.send(b'', SYN, 5, 0)
        self.assertEqual((answer.seq, answer.ack), (waiting.ack, waiting.seq))
        self.assertEqual(waiting.take(wake(waiting.stack, NOW + 1))[0].data, BANNER)

    # ---- cookies ---------------------------------------------------------------------

    def cookie(self, stack, initial=1000, **options):
        answer, = ask(stack, tcp(initial, 0, SYN, **options))
        return answer.seq

    def test_cookies(self):
        stack = make_stack()
        cookie = self.cookie(stack)
        self.assertEqual(self.cookie(stack), cookie)
        stack.tick(NOW + 1)
        self.assertEqual(self.cookie(stack), cookie)
        others = [self.cookie(stack, **each) for each in (
            dict(sport=40001), dict(dport=81), dict(src=packed('192.0.0.9')), V6,
            dict(initial=1001), dict(initial=0), dict(initial=ONES))]
        others.append(self.cookie(make_stack(host=masscanned.Host())))
        others.append(self.cookie(make_stack(own=''), dst=packed('192.0.0.2')))
        stack.tick(NOW + masscanned.KEY_LIFE_S)
        others.append(self.cookie(stack))
        self.assertEqual(len(set(others) | {cookie}), len(others) + 1)
        self.assertEqual(self.cookie(make_stack()), cookie)     # workers share a secret
        self.assertNotIn(cookie, (0xdf6a514d, 0xd69013b6))      # the original's, with its zero key

    def test_cookie_life(self):
        life = masscanned.KEY_LIFE_S
        for start in NOW, NOW - NOW % life, NOW - NOW % life + life - 0.001:
            for wait, valid in ((0, True), (life - 1, True), (life, True), (2 * life, False),
                                (3 * life, False), (1000 * life, False), (-2 * life, False)):
                with self.subTest(start=start, wait=wait):
                    stack = make_stack()
                    stack.tick(start)
                    client = Client(stack)
                    stack.tick(start + wait)
                    client.say(GET)
                    self.assertEqual(bool(client.got), valid)

    def test_cookie_is_checked(self):
        draw = random.Random(SEED)
        stack = make_stack()
        client = Client(stack)
        for number in range(300):
            wrong = 1 << number if number < 32 else draw.randrange(1, 1 << 32)
            if wrong & ~7:                      # the lowest 3 bits tell the MSS
                ack = (client.ack - 1 ^ wrong) + 1
                for answer in client.send(GET, PSH | ACK, None, ack):   # as of a segment lost
                    self.assertEqual((answer.data, wrong >> 20), (b'', 0), 'SEED=%d' % SEED)
        self.assertEqual(len(stack.connections.table), 0)
        self.assertEqual(client.talk(GET), KEEP)

    def test_place(self):
        """Without state it is known how far a segment is beyond the first octet."""
        draw = random.Random(SEED)
        cookies = masscanned.Cookies(draw_octets(draw))
        cookies.tick(NOW)
        for number in range(500 * BULK):
            flow = bytes(draw.randrange(256) for _ in range(12))
            initial = draw.choice((0, 1, ONES, ONES - 1, draw.randrange(1 << 32)))
            step, beyond = draw.randrange(8), draw.choice((-1, 0, 1, 1459, 65535))
            ack = cookies.make(flow, step, initial) + 1 & ONES
            if number % 2:
                cookies.tick(cookies.epoch * masscanned.KEY_LIFE_S + masscanned.KEY_LIFE_S)
            seq = initial + 1 + beyond & ONES
            self.assertEqual(cookies.read(flow, seq, ack), (step, beyond), 'SEED=%d' % SEED)
            for far in (-2, 65536, 100000, 131069):
                self.assertIsNone(cookies.read(flow, initial + 1 + far & ONES, ack))

    def test_first_is_late(self):
        """Nothing is acknowledged that did not come; what comes at last is answered, once."""
        for where, size in itertools.product(self.WHERES, (1, 9, len(GET) - 1)):
            client = Client(make_stack(), **where)
            second = client.frame(GET[size:], PSH | ACK, client.seq + size)
            end = client.frame(b'', FIN | ACK, client.seq + len(GET))
            for frame in second, end, second:
                answer, = ask(client.stack, frame)
                self.assertEqual((answer.seq, answer.ack, answer.flags, answer.data),
                                 (client.ack, client.seq, ACK, b''))
            self.assertIsNone(client.conn)
            client.say(GET[:size])
            client.say(GET[size:])
            client.acknowledge()
            self.assertEqual(client.got, KEEP)

    def test_keep_alive_before_data(self):
        for where, data in itertools.product(self.WHERES, (b'', b'\0')):
            for port in 80, 22:
                client = Client(make_stack(), port, **where)
                client.send(b'', ACK)
                answer, = client.send(data, ACK, client.seq - 1)
                self.assertEqual((answer.seq, answer.ack, answer.flags, answer.data),
                                 (client.ack, client.seq, ACK, b''))
                self.assertEqual(client.talk(GET), KEEP)

    def test_mss(self):
        """The client's MSS comes back with its cookie, rounded down; never more than ours."""
        stacks = {mtu: make_stack(mtu=mtu) for mtu in (1500, 9000, 100)}
        for six, default in ((False, 536), (True, 1220)):
            where = dict(src=PEER6, dst=HOST6) if six else {}
            for mss in (None, 0, 1, 64, 100, 255, 256, 535, 536, 1219, 1220, 1359, 1360, 1440,
                        1459, 1460, 1500, 8939, 8940, 65535):
                for mtu, stack in stacks.items():
                    with self.subTest(six=six, mss=mss, mtu=mtu):
                        options = b'' if mss is None else struct.pack('!BBH', 2, 4, mss)
                        client = Client(stack, options=options, **where)
                        answers = client.say(GET * 30)
                        known = max(64, default if mss is None else mss)
                        step = max(each for each in MSS_OF_STEPS if each <= known)
                        size = min(step, mtu - (60 if six else 40))
                        self.assertEqual({len(each.data) for each in answers[:-1]}, {size})
                        self.assertEqual([each.flags for each in answers],
                                         [PSH | ACK] * len(answers))
                        self.assertEqual(client.acknowledge(), KEEP * 30)

    # ---- TCP -------------------------------------------------------------------------

    def test_vectors(self):
        """Every vector after a handshake, in segments."""
        stack = make_stack()
        for name, over, request, answer, _ in VECTORS:
            if over == TCP:
                with self.subTest(name=name):
                    src, dst = addresses_of(name)
                    client = Client(stack, port_of(name), src=src, dst=dst)
                    self.assertEqual(client.talk(request), expected_of(answer)[1])

    def test_datagrams(self):
        stack = make_stack()
        for name, over, request, answer, _ in VECTORS:
            if over == UDP:
                with self.subTest(name=name):
                    src, dst = addresses_of(name)
                    answers = ask(stack, udp(request, dport=port_of(name), src=src, dst=dst))
                    port, out = expected_of(answer)
                    self.assertEqual([(each.sport, each.dport, each.src, each.dst, each.data)
                                      for each in answers], [
                        (port or port_of(name), 40000, dst, src, out)] if out else [])

    def test_in_order(self):
        client = Client(make_stack())
        first, = client.say(GET[:9])
        self.assertEqual((first.flags, first.ack, first.seq, first.data),
                         (ACK, client.seq, client.ack, b''))
        answer, = client.say(GET[9:])
        self.assertEqual((answer.flags, answer.ack, answer.data), (PSH | ACK, client.seq, KEEP))
        self.assertEqual((answer.sport, answer.dport), (80, 40000))

    def test_data_without_push(self):
        client = Client(make_stack())
        self.assertEqual(client.say(GET[:9], ACK)[0].flags, ACK)
        self.assertEqual(client.say(GET[9:], ACK)[0].data, KEEP)
        for flags in PSH | ACK | URG, ACK | ECE, ACK | CWR, PSH | ACK | AE:
            client.acknowledge()
            self.assertEqual(client.say(GET, flags)[0].data, KEEP)

    def test_retransmission(self):
        """The same octets again, parsed once."""
        client = Client(make_stack())
        answers = client.send(GET)
        for _ in range(3):
            self.assertEqual(client.send(GET), answers)
        self.assertEqual(client.conn.una, client.ack)
        client.say(GET)
        client.acknowledge()
        again, = client.send(GET, PSH | ACK, client.seq - len(GET))      # what is acknowledged
        self.assertEqual((again.flags, again.data, again.seq, again.ack),
                         (ACK, b'', client.ack, client.seq))
        self.assertEqual(client.talk(GET), KEEP * 2)

    def test_part_of_the_answer_again(self):
        client = Client(make_stack(), options=unhex('02040040'))
        answers = client.say(GET)
        self.assertEqual(b''.join(each.data for each in answers), KEEP)
        again = client.send(GET, PSH | ACK, client.seq - len(GET), answers[2].seq)
        self.assertEqual(again, answers[2:])
        self.assertEqual(client.acknowledge(), KEEP)

    def test_overlap(self):
        client = Client(make_stack())
        start = client.seq
        client.say(GET[:20])
        for end in 10, 20:
            self.assertEqual(client.send(GET[:end], PSH | ACK, start)[0].data, b'')
        answer, = client.send(GET, PSH | ACK, start)
        self.assertEqual((answer.data, answer.ack), (KEEP, start + len(GET)))
        answers = client.send(GET[5:] + GET, PSH | ACK, start + 5)
        self.assertEqual((answers[-1].data, answers[-1].ack), (KEEP, start + 2 * len(GET)))

    def test_gap(self):
        client = Client(make_stack())
        client.say(GET[:9])
        gap, = client.send(GET[19:], PSH | ACK, client.seq + 10)
        self.assertEqual((gap.flags, gap.data, gap.ack), (ACK, b'', client.seq))
        fin, = client.send(b'', FIN | ACK, client.seq + 10)
        self.assertEqual((fin.flags, fin.ack), (ACK, client.seq))
        self.assertEqual(client.talk(GET[9:]), KEEP)

    def test_fin(self):
        client = Client(make_stack())
        client.talk(GET)
        answer, = client.say(b'', FIN | ACK)
        self.assertEqual((answer.flags, answer.ack, answer.data), (FIN | ACK, client.seq, b''))
        again, = client.send(b'', FIN | ACK, client.seq - 1, answer.seq)
        self.assertEqual(again, answer)
        self.assertEqual(len(client.stack.connections.table), 1)
        self.assertEqual(client.send(b'', ACK), [])
        self.assertEqual(len(client.stack.connections.table), 0)
        self.assertEqual(client.send(b'', FIN | ACK, client.seq - 1), [])

    def test_fin_with_data(self):
        client = Client(make_stack())
        answer, = client.say(GET, FIN | PSH | ACK)
        self.assertEqual((answer.flags, answer.ack, answer.data),
                         (FIN | PSH | ACK, client.seq, KEEP))
        again, = client.send(GET, FIN | PSH | ACK, client.seq - len(GET) - 1, answer.seq)
        self.assertEqual(again, answer)
        half, = client.send(b'', FIN | ACK, client.seq - 1, answer.seq + 100)
        self.assertEqual((half.flags, half.data), (FIN | PSH | ACK, KEEP[100:]))
        self.assertEqual(client.acknowledge(), KEEP)

    def test_fin_of_an_idle_client(self):
        """Handshake, then FIN: no connection is made, and the cookie is asked for."""
        stack = make_stack()
        client = Client(stack)
        answer, = client.say(b'', FIN | ACK)
        self.assertEqual((answer.flags, answer.ack), (FIN | ACK, client.seq))
        self.assertEqual(client.send(b'', ACK), [])
        self.assertEqual(len(stack.connections.table), 0)

    def test_fin_while_stalled(self):
        """Whoever asks much and closes gets all answers, then FIN; nothing comes after that."""
        client = Client(make_stack())
        client.say(GET * 49, ACK)
        client.say(GET * 51, FIN | PSH | ACK)
        for _ in range(30):
            self.assertFalse(client.closed and len(client.got) < 100 * len(KEEP),
                             'FIN after %d of %d octets' % (len(client.got), 100 * len(KEEP)))
            if not client.take(client.send(b'', ACK)):
                break
        self.assertEqual((client.got == KEEP * 100, client.closed), (True, True))

    def test_close(self):
        client = Client(make_stack())
        request = b'GET / HTTP/1.0\r\n\r\n'
        answer, = client.say(request)
        self.assertEqual((answer.flags, answer.data), (FIN | PSH | ACK, CLOSE))
        again, = client.send(request, PSH | ACK, client.seq - len(request), answer.seq)
        self.assertEqual(again, answer)
        more, = client.say(GET)                 # data after our close: acknowledged, no more
        self.assertEqual((more.flags, more.data, more.ack), (ACK, b'', client.seq))
        fin, = client.say(b'', FIN | ACK)
        self.assertEqual((fin.flags, fin.ack), (ACK, client.seq))
        self.assertEqual(client.got, CLOSE)

    def test_close_in_segments(self):
        client = Client(make_stack(), options=unhex('02040040'))
        answers = client.say(b'GET / HTTP/1.0\r\n\r\n')
        self.assertEqual([bool(each.flags & FIN) for each in answers],
                         [False] * (len(answers) - 1) + [True])
        self.assertEqual((client.got, client.closed), (CLOSE, True))

    def test_deaf(self):
        client = Client(make_stack())
        for _ in range(3):
            answer, = client.say(JUNK)
            self.assertEqual((answer.flags, answer.ack, answer.data), (ACK, client.seq, b''))
        self.assertEqual(client.conn.kept, b'')

    def test_reset(self):
        for distance, gone in (0, True), (65535, False), (-1, False), (1 << 31, False):
            stack = make_stack()
            client = Client(stack)
            client.say(GET[:9])
            self.assertEqual(client.send(b'', RST, client.seq + distance), [])
            self.assertEqual(len(stack.connections.table), 0 if gone else 1, distance)
            if not gone:
                self.assertEqual(client.talk(GET[9:]), KEEP)

    def test_second_opening(self):
        stack = make_stack()
        client = Client(stack)
        client.say(b'GET / HTTP/1.1\r\nno end')
        answer, = client.send(b'', SYN, 77777, 0)       # of the same client, once more
        self.assertEqual(client.send(b'', RST, answer.ack, 0), [])
        again = Client(stack, seq=77777)
        self.assertEqual(len(stack.connections.table), 0)
        self.assertEqual(again.talk(GET), KEEP)
        self.assertEqual(Client(stack, 22).talk(b'SSH-2.0-x\r\n'), BANNER)

    def test_push_without_data(self):
        stack = make_stack()
        client = Client(stack)
        answer, = client.send(b'', PSH | ACK)
        self.assertEqual((answer.flags, answer.seq, answer.ack), (ACK, client.ack, client.seq))
        self.assertEqual(len(stack.connections.table), 0)
        client.talk(GET)
        answer, = client.send(b'', PSH | ACK)
        self.assertEqual((answer.flags, answer.seq, answer.ack, answer.data),
                         (ACK, client.ack, client.seq, b''))

    def test_keep_alive(self):
        client = Client(make_stack())
        client.talk(GET)
        for data in b'', b'\0':
            answer, = client.send(data, ACK, client.seq - 1)
            self.assertEqual((answer.flags, answer.seq, answer.ack, answer.data),
                             (ACK, client.ack, client.seq, b''))
        self.assertEqual(client.talk(GET), KEEP * 2)

    def test_wrap(self):
        """Sequence numbers of both sides go over 2^32."""
        for seq in ONES, ONES - 1, ONES - 10, ONES - len(GET), ONES - len(GET) - 1:
            client = Client(make_stack(), seq=seq)
            client.talk(GET)
            self.assertEqual(client.talk(GET, 5), KEEP * 2, seq)
            self.assertEqual(client.say(GET * 3, FIN | PSH | ACK)[-1].ack, client.seq)
        for cookie in ONES - 7, ONES - 7 - len(KEEP), ONES - 207:
            with patched(masscanned, flow_hash=lambda _: cookie & ~7):
                client = Client(make_stack(), seq=0, options=unhex('02040040'))
                answers = client.say(GET)
                self.assertEqual(client.send(GET, PSH | ACK, client.seq - len(GET),
                                             answers[0].seq), answers)
                client.acknowledge()
                self.assertEqual(client.talk(GET), KEEP * 2)
                self.assertLess(client.ack, 1 << 20)

    def test_stalled(self):
        """Pipelined requests beyond OUT_MAX wait for ACKs, and get all they are due."""
        for size in 1400, 100000:
            client = Client(make_stack())
            first = client.say(GET * 50)
            self.assertTrue(client.conn.stalled)
            self.assertLess(sum(len(each.data) for each in first),
                            masscanned.OUT_MAX + len(KEEP))
            self.assertEqual(client.acknowledge(), KEEP * 50)
            self.assertEqual(client.talk(GET * 200, size), KEEP * 250)

    def test_stalled_without_answers(self):
        """Steps that say nothing must not leave the request behind them unanswered.

        The client has nothing to acknowledge, so nothing but an answer would go on.
        """
        client = Client(make_stack(), 445)
        client.talk(NEGOTIATE_2)
        client.say(unhex('85000000') * 1000 + FIRST_2)
        self.assertEqual(client.got, NEGOTIATED_2)
        turns = 0
        while client.stack.next_due() == NOW:
            client.take(wake(client.stack))
            turns += 1
        self.assertEqual(client.got, NEGOTIATED_2 + CHALLENGED_2)
        self.assertEqual(turns, 1001 // masscanned.STEPS_MAX)

    def test_faults_of_a_round(self):
        """A frame that raises is kept, those before and after it are answered, in order."""
        def answer(frame, trusted):
            if frame.startswith(b'bad'):
                raise KeyError(frame)
            return [frame, b'!'] if frame != b'silence' else ()
        frames = [b'bad1', b'a', b'silence', b'b', b'bad2', b'bad3', b'c', b'bad4']
        for serve, observers in ((masscanned.answer_all, []),
                                 (masscanned.answer_watched, [masscanned.Watch(0)])):
            stack = make_stack()
            stack.answer_frame = answer
            self.assertEqual(serve(stack, frames, 0, observers), [b'a', b'!', b'b', b'!', b'c',
                                                                  b'!'])
            self.assertEqual([frame for _, frame in stack.faults],
                             [b'bad1', b'bad2', b'bad3', b'bad4'])

    def test_stalled_keeps_little(self):
        """A client that asks faster than it takes the answers is held back, and loses none."""
        stack = make_stack()
        client, sent, most = Client(stack), b'', 0
        for _ in range(40):
            piece = GET * 2000
            if client.take(client.send(piece)) and client.conn.rcv == client.seq + len(piece):
                client.seq += len(piece)
                sent += piece
            most = max(most, len(client.conn.kept))
        self.assertLessEqual(most, masscanned.KEPT_MAX + len(GET * 2000))
        self.assertEqual(len(client.acknowledge()), len(KEEP) * (len(sent) // len(GET)))

    def test_source_of_multicast_answers(self):
        """A unicast address of the list, whatever stands in it first."""
        for own, source in (('224.0.0.1,10.0.0.1', '10.0.0.1'), ('0.0.0.0/0', '1.0.0.0'),
                            ('224.0.0.1', None), ('::/0', '::1'), ('ff02::1,2001:db8::5',
                                                                   '2001:db8::5')):
            with self.subTest(own):
                stack = make_stack(own)
                family = stack.six if ':' in own else stack.four
                self.assertEqual(family.source, source and ipaddress.ip_address(source).packed)

    def test_log_of_any_frame(self):
        """Whatever the stack makes of a frame, cut at any length, the log can tell it."""
        solicitation = masscanned.ETHER.pack(MAC, CLIENT_MAC, 0x86dd) + masscanned.Face().pack_ipv6(
            58, PEER6, HOST6, b'\x87', 255)
        short = MAC + CLIENT_MAC + unhex('0800 4500 0000 00')
        frames = [solicitation, short, Client(make_stack()).frame(GET)]
        for kind in masscanned.ConsoleFormat, masscanned.LogfmtFormat:
            log, stack = packet_log(kind), make_stack()
            for frame in frames:
                for size in range(masscanned.ETHER.size, len(frame) + 1):
                    answers = stack.answer_frame(frame[:size])
                    log.frame(NOW, frame[:size], None if answers else stack.fate, answers)
            for line in ''.join(log.journal.texts).splitlines():
                self.assertRegex(line, r'^(ts=)?1795225601\.250[\t ]\S')

    def test_log_in_one_step(self):
        """Frames of plain TCP and UDP, answered or not, are told as layer by layer."""
        stun = STUN_REQUEST[:2] + b'\0\x08' + STUN_REQUEST[4:] + unhex('0003 0004 00000002')
        stack = make_stack()
        for frame, fate in (
                (tcp(7, 0, SYN), None), (tcp(7, 9, ACK), 'tcp bare ack'),
                (tcp(7, 9, RST), 'tcp reset'), (tcp(7, 0, SYN | FIN), 'tcp flags'),
                (tcp(7, 9, ACK | 0x100), 'tcp bare ack'), (tcp(7, 9, RST | 0x100), 'tcp reset'),
                (udp(DNS_QUERY), None), (udp(STUN_REQUEST), None), (udp(stun), None),
                (udp(b'?' * 9), 'udp silence')):
            with self.subTest(fate=fate, frame=frame):
                answers = stack.answer_frame(frame)
                self.assertEqual(None if answers else stack.fate, fate)
                log = packet_log()
                layers = ''.join(log.layers(log.stamp, frame, fate, answers))
                log.layers = None
                log.frame(NOW, frame, fate, answers)
                self.assertEqual(self.told(log), layers)

    def test_log_of_many_answers(self):
        """An answer that takes several segments: the log tells each of them."""
        client = Client(make_stack())
        frame = client.frame(GET * 20)
        answers = client.stack.answer_frame(frame)
        self.assertGreater(len(answers), 2)
        for kind in masscanned.ConsoleFormat, masscanned.LogfmtFormat:
            log = packet_log(kind)
            log.frame(NOW, frame, None, answers)
            text = self.told(log)
            self.assertEqual(text, ''.join(log.layers(log.stamp, frame, None, answers)))
            for answer in answers:
                self.assertIn(str(read_answer(answer).seq), text)

    def told(self, log):
        """What the log will write."""
        log.journal.encode()
        return b''.join(log.journal.blocks).decode()

    # what differs among the SYNs of a round: clients, our addresses, ports, numbers
    LOGGED_ROUNDS = [
        ('1 to 3 digits', ('1.2.3.4', '12.34.56.78', '192.168.100.255'),
         ('10.0.0.0', '10.9.10.99', '10.100.255.1'), (0, 9, 65535, 10000), (0, ONES, 7, 10 ** 9)),
        ('the last octet', ['192.168.7.%d' % octet for octet in (0, 9, 10, 99, 100, 255)],
         ('10.0.0.7', '10.0.0.250'), (80, 443), (ONES, 1 << 31)),
        ('the first octet', ('9.7.7.7', '11.7.7.7', '222.7.7.7'), ('10.1.1.1', '10.2.1.1'),
         (5, 5, 6), (1, 1, 2)),
        ('one client', ('223.255.255.255',), ('10.0.0.1', '10.0.1.0'), (1024, 65535), (0, 99)),
        ('one of all', ('1.0.0.0',), ('10.255.255.255',), (0,), (ONES,)),
        ('ends alike', ('1.2.3.4', '1.2.3.5', '1.2.3.4'), ('10.0.0.1', '10.0.0.2', '10.0.0.1'),
         (1, 2, 1), (3, 4, 3))]

    def logged_rounds(self):
        """-> name, what observers are told of a round; of several sizes of frames."""
        for name, srcs, ours, ports, numbers in self.LOGGED_ROUNDS:
            for count, options, tail in ((1, b'', 0), (2, b'', 6), (7, unhex('020405b4'), 0),
                                         (7, b'', 1), (49, b'', 3), (49, unhex('020405b4'), 2)):
                each = zip(range(count), *map(itertools.cycle, (
                    srcs, ours, ports, ports[1:] + ports[:1], numbers, numbers[1:] + numbers)))
                frames = [tcp(seq, ack, SYN, b'', options, sport=sport, dport=dport,
                              src=packed(src), dst=packed(our)) + bytes(tail)
                          for _, src, our, sport, dport, seq, ack in each]
                stack = make_stack('10.0.0.0/8')
                answers = list(stack.answer_alike(frames))
                yield '%s %d+%d' % (name, count, tail), frames, answers, stack.openings

    def test_log_of_openings(self):
        """A round of SYNs is told as one SYN after the other is, between what came and comes."""
        for name, frames, answers, columns in self.logged_rounds():
            for kind in masscanned.ConsoleFormat, masscanned.LogfmtFormat, JsonFormat:
                logs = packet_log(kind), packet_log(kind)
                for log in logs:
                    log.frame(NOW, frames[0], None, answers[:1])
                logs[0].openings(NOW + 1, frames, answers, columns)
                for frame, answer in zip(frames, answers):
                    logs[1].frame(NOW + 1, frame, None, (answer,))
                for log in logs:
                    log.frame(NOW + 2, frames[0], None, answers[:1])
                self.assertEqual(self.told(logs[0]), self.told(logs[1]), name)
                self.assertEqual([(log.due, log.journal.count) for log in logs],
                                 [(NOW + masscanned.FLUSH_S, len(frames) + 2)] * 2)

    def test_log_without_room(self):
        """Openings are counted while the reader stalls, and no more when it is gone."""
        frames = [tcp(7, 0, SYN)] * 20
        stack = make_stack()
        answers = list(stack.answer_alike(frames))
        for kind in masscanned.ConsoleFormat, masscanned.LogfmtFormat:
            log = packet_log(kind)
            log.journal.full = True
            log.openings(NOW, frames, answers, stack.openings)
            self.assertEqual((log.missed, log.journal.count, self.told(log)), (20, 0, ''))
            log.journal.failed = 'gone'
            log.openings(NOW, frames, answers, stack.openings)
            self.assertEqual((log.missed, log.journal.count, self.told(log)), (20, 0, ''))

    def test_log_written(self):
        """All that was told is written once, in order, and counts anew; due is its first."""
        frames = [tcp(seq, 0, SYN, sport=seq) for seq in range(40)]
        stack = make_stack()
        answers = list(stack.answer_alike(frames))
        with tempfile.TemporaryFile() as file:
            log = packet_log(fd=file.fileno())
            log.begin()
            self.assertTrue(log.journal.count)
            log.flush(NOW)
            for now in NOW + 1, NOW + 1.1:
                log.frame(now, frames[0], None, answers[:1])
                log.openings(now, frames, answers, stack.openings)
            self.assertEqual((log.journal.count, log.due), (82, NOW + 1 + masscanned.FLUSH_S))
            log.flush(NOW)
            log.flush(NOW)
            self.assertEqual((log.journal.count, log.journal.texts, log.journal.blocks,
                              log.journal.waiting, log.due), (0, [], [], b'', None))
            file.seek(0)
            lines = file.read().decode().splitlines()
        self.assertEqual(len(lines), len(masscanned.LAYERS) + 6 * 82)
        self.assertEqual([line.split('\t')[6] for line in lines if '\ttcp\trecv\t' in line],
                         ['0'] + [str(seq) for seq in range(40)] + ['0']
                         + [str(seq) for seq in range(40)])

    def test_log_stream(self):
        """Files and /dev/null take as much as comes; who reads of another may stall."""
        near, far = os.pipe()
        one, other = socket.socketpair()
        with one, other, tempfile.TemporaryFile() as file, open(os.devnull, 'wb') as null:
            for fd, stream in ((far, True), (one.fileno(), True), (file.fileno(), False),
                               (null.fileno(), False)):
                self.assertEqual(masscanned.is_stream(fd), stream)
                self.assertEqual(masscanned.Journal(fd).piece == select.PIPE_BUF, stream)
        for fd in (near, far) + os.openpty():
            if os.isatty(fd):
                self.assertTrue(masscanned.is_stream(fd))
            os.close(fd)

    # ---- greetings and timers --------------------------------------------------------

    WHERES = [dict(), dict(src=PEER6, dst=HOST6)]

    def greeted(self, dport=22, **where):
        """A client that has completed its handshake and waits -> Client."""
        client = Client(make_stack(), dport, **where)
        self.assertEqual(client.send(b'', ACK), [])
        return client

    def test_greeting(self):
        """Who stays silent is greeted once; the head of the frames is the client's."""
        for where, port in itertools.product(self.WHERES, (22, 2222)):
            client = self.greeted(port, **where)
            stack = client.stack
            self.assertEqual(stack.next_due(), NOW + masscanned.GREET_S)
            self.assertEqual((stack.fate, client.send(b'', ACK)), ('tcp bare ack', []))     # again
            self.assertEqual(wake(stack, NOW + 0.19), [])
            answer, = client.take(wake(stack, NOW + 0.2))
            self.assertEqual((answer.data, answer.flags, answer.dport), (BANNER, PSH | ACK, 40000))
            self.assertEqual(client.send(b'', ACK), [])
            self.assertEqual(client.say(b'SSH-2.0-x\r\n')[0].data, b'')       # it has our line
            self.assertEqual((wake(stack, NOW + 90), len(client.got)), ([], len(BANNER)))

    def test_greetings(self):
        """All of them, over both versions of IP; some say nothing more."""
        for (port, text, closing), where in itertools.product(GREETINGS, self.WHERES):
            with self.subTest(port=port, **where):
                client = self.greeted(port, **where)
                answers = client.take(wake(client.stack, NOW + 0.2))
                out = b''.join(each.data for each in answers)
                while client.conn and client.conn.unacked and len(out) < len(text):
                    out += b''.join(each.data for each in client.take(client.send(b'', ACK)))
                self.assertEqual((out, bool(client.conn.fin)), (text, closing))

    def test_every_greeting_is_tested(self):
        ports = {port for port in HOST.registry.greeters if port not in masscanned.SECURE_PORTS}
        self.assertEqual({port for port, _, _ in GREETINGS}, ports)
        for port in set(HOST.registry.greeters) - ports:
            client = Client(make_stack(), port)         # TLS comes first there
            self.assertEqual((client.send(b'', ACK), client.stack.next_due()), ([], None))

    def test_greeted_words(self):
        """What follows a greeting is its port's, if nobody else's; then it is not said again."""
        for port, data, answer in (
                (25, b'\r\n', b'500 5.5.2 Unknown command\r\n'), (25, GET, KEEP),
                (21, b'USER a\r\n', b'331 Password required\r\n'), (23, b'bob\r\n', b'Password: '),
                (23, unhex('fffd03 fffb1f'), unhex('fffe1f')), (873, b'@RSYNCD: 31.0\n', b''),
                (3690, SVN_CLIENT, SVN_LOGINS), (3690, JUNK, b''), (2000, b'\1' * 16,
                                                                   b'\2\0\0\0' + b'\x11' * 16)):
            with self.subTest(port=port, data=data):
                client = self.greeted(port)
                client.take(wake(client.stack, NOW + 0.2))
                before = len(client.got)
                client.say(data)
                self.assertEqual(client.got[before:], answer)

    def test_greeting_behind_tags(self):
        stack, tags = make_stack(), unhex('88a80001 81000002')
        syn, = stack.answer_frame(tcp(7, 0, SYN, dport=22, tags=tags))
        seq, = struct.unpack_from('!I', syn, 14 + 8 + 20 + 4)
        stack.answer_frame(tcp(8, seq + 1 & ONES, ACK, dport=22, tags=tags))
        frame, = stack.tick(NOW + 1)
        self.assertEqual(frame[:20], CLIENT_MAC + MAC + tags)
        self.assertTrue(frame.endswith(BANNER))

    def test_who_speaks_first_is_not_greeted(self):
        for data, answer in ((GET, KEEP), (b'SSH-2.0-x\r\n', BANNER), (GET[:9], b'')):
            client = self.greeted()
            client.say(data)
            client.acknowledge()
            self.assertEqual(client.got, answer)
            self.assertEqual((wake(client.stack, NOW + 0.3), client.stack.connections.silent),
                             ([], {}))
        for flags in RST, FIN | ACK, PSH | ACK:
            client = self.greeted()
            client.send(b'', flags)
            self.assertEqual((wake(client.stack, NOW + 0.3), client.conn), ([], None))
            self.assertEqual(client.stack.connections.crowds, {})
        client = self.greeted()
        Client(client.stack, 22)                    # the same ports once more
        self.assertEqual(wake(client.stack, NOW + 0.3), [])

    def test_nobody_is_greeted(self):
        for port, options, ack in ((80, {}, 0), (22, dict(greet_s=None), 0), (22, {}, 1000)):
            client = Client(make_stack(**options), port)
            self.assertEqual(client.send(b'', ACK, None, client.ack + ack & ONES), [])
            self.assertEqual((client.stack.next_due(), client.conn), (None, None))

    def test_crossing(self):
        """After a greeting the registry looks first; the greeter takes what nobody claims."""
        host = quiet_host([*masscanned.PROTOCOLS.values(), toy(
            lambda data, peer: b'<%s>' % data, b'toy', ports=(9,),
            banner=lambda peer: b'%d?' % peer.sport)])
        for data, answer in ((GET, KEEP), (JUNK, b'<%s>' % JUNK), (b'toy', b'<toy>')):
            client = Client(make_stack(host=host), 9)
            client.send(b'', ACK)
            wake(client.stack, NOW + 0.5)           # which the client has not seen yet
            client.send(data)
            self.assertEqual(client.stack.connections.silent, {})
            self.assertEqual(client.conn.unacked, b'40000?' + answer)

    def test_not_acknowledged(self):
        """What is not acknowledged is sent again after 1, 2 and 4 s; then RST."""
        for where in self.WHERES:
            client = self.greeted(**where)
            stack, seen = client.stack, []
            while stack.next_due():
                now = stack.next_due()
                seen += [(round(now - NOW, 1), each.data, each.flags)
                         for each in wake(stack, now)]
            again = [(at, BANNER, PSH | ACK) for at in (0.2, 1.2, 3.2, 7.2)]
            self.assertEqual(seen, again + [(11.2, b'', RST | ACK)])
            self.assertEqual((client.conn, stack.connections.held), (None, 0))

    def test_acknowledged_meanwhile(self):
        client = Client(make_stack(), 80)
        client.send(GET * 2)
        self.assertEqual(client.stack.next_due(), NOW + 1)
        client.seq = client.seq + 2 * len(GET) & ONES
        client.send(b'', ACK, None, client.ack + 100 & ONES)
        self.assertEqual(wake(client.stack, NOW + 1), [])           # it moves
        self.assertEqual(b''.join(each.data for each in wake(client.stack, NOW + 2)),
                         (KEEP * 2)[100:])
        client.ack = client.ack + 2 * len(KEEP) & ONES
        client.send(b'', ACK)
        self.assertEqual((wake(client.stack, NOW + 9), client.stack.timers.next_due()), ([], None))

    def test_quiet(self):
        """A request without an end is taken for what it is after a second, or at a FIN."""
        host = quiet_host([toy(lambda data, peer: b'two', b'AB', name='two'),
                           toy(lambda data, peer: b'four', b'ABCD', name='four')])
        client = Client(make_stack(host=host))
        self.assertEqual(client.say(b'AB')[0].data, b'')
        self.assertEqual(wake(client.stack, NOW + 0.9), [])
        answer, = client.take(wake(client.stack, NOW + 1))
        self.assertEqual(answer.data, b'two')
        client = Client(make_stack(host=host))
        client.say(b'A')
        self.assertEqual((wake(client.stack, NOW + 1), client.conn.kept), ([], b'A'))
        self.assertEqual(client.say(b'BCD')[0].data, b'four')
        client = Client(make_stack(host=host))
        answer, = client.say(b'AB', FIN | PSH | ACK)
        self.assertEqual((answer.data, answer.flags), (b'two', FIN | PSH | ACK))

    def test_silent_go_first(self):
        """Waiting and only greeted clients make room; those of one network are few."""
        most = masscanned.CROWD_MAX
        for where, other in (({}, packed('10.1.2.3')),
                             (dict(src=PEER6, dst=HOST6), packed('2001:db8::1'))):
            stack = make_stack(connections=masscanned.Connections(maximum=most + 2))
            talker = Client(stack, 80, **where)
            talker.say(GET[:9])
            waiting = [Client(stack, 22, sport, **where) for sport in range(most + 1)]
            fates = []
            for client in waiting:
                client.send(b'', ACK)
                fates.append(stack.fate)
            self.assertEqual(fates, ['tcp bare ack'] * most + ['tcp crowd'])
            stack.tick(NOW + 0.2)
            waiting[-1].send(b'', ACK)
            self.assertEqual(stack.fate, 'tcp crowd')       # who was only greeted counts, too
            for sport in range(3):                          # another network: the table is full
                Client(stack, 22, 100 + sport, **dict(where, src=other)).send(b'', ACK)
            self.assertEqual(len(stack.connections.table), most + 2)
            self.assertEqual([each.conn is None for each in waiting[:4]],
                             [True, True, False, False])
            self.assertEqual(stack.connections.evicted, 2)
            self.assertIsNotNone(talker.conn)
            self.assertEqual(sum(stack.connections.crowds.values()),
                             len(stack.connections.silent))

    # ---- the client's window ---------------------------------------------------------

    def drain(self, client, window, most=200):
        """ACK all that comes, at this window, until nothing comes -> client.got."""
        while most:
            answers = client.take(client.send(b'', ACK, None, None, b'', window))
            if not answers:
                return client.got
            most -= 1
        raise AssertionError('no end')

    def test_window(self):
        """No more is sent than the client has room for, in whole segments while some are under way."""
        for window in (1, 50, 536, 1000, 5000, 65535):
            client = Client(make_stack())
            frame = client.frame(GET * 20, window=window)
            client.seq = client.seq + 20 * len(GET) & ONES
            sizes = [len(each.data) for each in client.take(ask(client.stack, frame))]
            self.assertLessEqual(sum(sizes), max(window, 0))
            self.assertEqual(sum(sizes[:1]), min(window, 536))
            self.assertEqual(self.drain(client, window, 20000), KEEP * 20)
            self.assertFalse(client.conn.unacked)

    def test_closed_window(self):
        """A window of 0 is probed by an octet as long as the client answers; what opens it flows."""
        for answers in True, False:
            client = Client(make_stack())
            stack = client.stack
            first = ask(stack, client.frame(GET * 3, window=0))
            client.seq = client.seq + 3 * len(GET) & ONES
            self.assertEqual([each.data for each in first], [b''])
            seen, now = [], NOW
            while stack.next_due() and len(seen) < 20:
                now = stack.next_due()
                for each in wake(stack, now):
                    seen.append((each.seq, each.data, each.flags & RST))
                    if answers and not each.flags & RST:
                        client.send(b'', ACK, None, None, b'', 0)
            if answers:
                self.assertEqual(seen, [(client.ack, KEEP[:1], 0)] * 20)
                self.assertEqual(self.drain(client, 65535), KEEP * 3)
            else:
                self.assertEqual(len(seen), 4)
                self.assertEqual((seen[-1][2], client.conn), (RST, None))

    def test_window_shrinks(self):
        client = Client(make_stack())
        client.send(GET * 20)
        client.seq = client.seq + 20 * len(GET) & ONES
        client.send(b'', ACK, None, client.ack + 1000, b'', 700)
        wake(client.stack, NOW + 1)
        again = wake(client.stack, NOW + 2)
        self.assertEqual(b''.join(each.data for each in again), (KEEP * 20)[1000:1700])

    def test_repeated_acks(self):
        """Three of one number: the segment that follows it once more, at once, once."""
        client = Client(make_stack())
        client.send(GET * 5)
        client.seq = client.seq + 5 * len(GET) & ONES
        sizes = [[len(each.data) for each in client.send(b'', ACK)] for _ in range(6)]
        self.assertEqual(sizes, [[], [], [536], [], [], []])
        client.ack += 536
        self.assertEqual([len(client.send(b'', ACK)) for _ in range(4)], [0, 0, 0, 1])
        client.ack -= 536                           # an old one is no repetition
        self.assertEqual([len(client.send(b'', ACK)) for _ in range(4)], [0] * 4)

    def test_old_acks(self):
        """Data with an older acknowledgement number is taken, the number ignored."""
        client = Client(make_stack())
        client.talk(GET)
        first = client.take(client.send(GET, PSH | ACK, None, client.ack - 5))
        self.assertEqual(b''.join(each.data for each in first), KEEP)
        self.assertEqual(client.conn.una, client.ack - len(KEEP) & ONES)

    def test_timers(self):
        timers = masscanned.Timers()
        self.assertEqual((timers.next_due(), timers.pop_due(9)), (None, []))
        for wait_s, flow, now in ((2, b'a', 0), (1, b'b', 0.5), (1, b'c', 1), (0, b'd', 3)):
            timers.add(wait_s, flow, now)
        self.assertEqual(timers.next_due(), 1.5)
        self.assertEqual(timers.pop_due(2), [(2, b'a'), (1.5, b'b'), (2, b'c')])
        self.assertEqual((timers.next_due(), timers.pop_due(2.9), timers.pop_due(3)),
                         (3, [], [(3, b'd')]))
        with patched(masscanned, DUE_MAX=2):
            for flow in b'abc':
                timers.add(1, flow, 0)
            self.assertEqual([len(timers.pop_due(1)), len(timers.pop_due(1))], [2, 1])

    def test_like_the_original(self):
        """Where its tests look: lines end in LF, STUN knows one address, gaps are passed over."""
        stack = make_stack(host=masscanned.Host(original=True))
        answer, = ask(stack, udp(GET, dport=80))
        self.assertEqual(answer.data, b'HTTP/1.1 401 Unauthorized\n')
        client = Client(stack)
        client.say(GET[:-2])
        client.seq += 54
        answer, = client.say(GET[-2:])
        self.assertTrue(answer.data.startswith(b'HTTP/1.1 401 Unauthorized\nServer: '))
        request = unhex('0001 0000 2112a442') + bytes(12)
        self.assertEqual(len(ask(stack, udp(request))[0].data), 32)
        classic = unhex('0001 0008', '03a3b9464dd8eb75e19481474293845c', '0003 0004 00000002')
        self.assertEqual(ask(stack, udp(classic, dport=65535))[0].sport, 0)

    def test_never_acknowledges(self):
        client = Client(make_stack())
        sent = 0
        while sent < 100:
            answers = client.send(GET)
            if not answers:
                break
            client.seq = client.seq + len(GET)
            sent += 1
        self.assertEqual(client.stack.fate, 'tcp window')
        self.assertLess(len(client.conn.unacked), masscanned.OUT_MAX + 2 * len(KEEP))
        self.assertEqual(len(client.acknowledge()), 0)
        client.take(client.send(GET, PSH | ACK, client.seq - len(GET)))   # again what is unacked
        self.assertEqual(client.acknowledge(), KEEP * sent)
        self.assertEqual(client.talk(GET), KEEP * (sent + 1))

    # ---- connections -----------------------------------------------------------------

    def held(self, stack):
        return sum(conn.cost() for conn in stack.connections.table.values())

    def test_maximum(self):
        stack = make_stack(connections=masscanned.Connections(maximum=10))
        clients = [Client(stack, sport=port) for port in range(1, 31)]
        for client in clients[:10]:
            client.say(GET[:9])
        clients[0].say(GET[9:12])               # used last
        for client in clients[10:19]:
            client.say(GET[:9])
        self.assertEqual([bool(client.conn) for client in clients],
                         [True] + [False] * 9 + [True] * 9 + [False] * 11)
        self.assertEqual(stack.connections.evicted, 9)
        self.assertEqual(clients[0].talk(GET[12:]), KEEP)
        self.assertEqual(stack.connections.held, self.held(stack))

    def test_idle(self):
        """A FIN ends who is idle; who does not end his side, a RST; the answers go on until then."""
        for where in self.WHERES:
            stack = make_stack(connections=masscanned.Connections(idle_s=50))
            one, other = Client(stack, sport=1, **where), Client(stack, sport=2, **where)
            one.talk(GET)
            stack.tick(NOW + 30)
            other.talk(GET)
            self.assertEqual(wake(stack, NOW + 35), [])     # what was sent was acknowledged
            self.assertEqual(stack.next_due(), NOW + 50)
            self.assertEqual(wake(stack, NOW + 50), [])
            answer, = one.take(wake(stack, NOW + 51))
            self.assertEqual((answer.flags, answer.dport, one.closed), (FIN | ACK, 1, True))
            self.assertEqual(one.send(b'', ACK), [])
            self.assertEqual(one.say(GET)[0].data, b'')             # deaf
            self.assertEqual(one.conn.fin, 2)
            answer, = other.take(wake(stack, NOW + 81))
            self.assertEqual(other.say(b'', FIN | ACK)[0].flags, ACK)
            self.assertEqual((other.conn.ended, other.conn.fin), (True, 2))
            answer, = wake(stack, NOW + 200)            # the other one has ended in order
            self.assertEqual((answer.flags, answer.seq, answer.ack), (RST | ACK, one.ack, one.seq))
            self.assertEqual((stack.connections.table, stack.connections.held, stack.next_due()),
                             ({}, 0, None))

    def test_farewells(self):
        """Who is evicted is reset, and all at the end; at most so many a second."""
        with patched(masscanned, FAREWELL_RATE=4):
            stack = make_stack(connections=masscanned.Connections(maximum=10))
            clients = [Client(stack, sport=port) for port in range(30)]
            for client in clients[:13]:
                client.say(GET[:9])
            self.assertEqual(stack.next_due(), NOW)
            self.assertEqual([(each.dport, each.flags) for each in wake(stack)],
                             [(0, RST | ACK), (1, RST | ACK), (2, RST | ACK)])
            for client in clients[13:30]:
                client.say(GET[:9])
            self.assertEqual((len(wake(stack)), len(wake(stack, NOW + 0.5))), (1, 0))
            batches = [[read_answer(each) for each in batch] for batch in stack.end_all()]
            self.assertEqual([len(batch) for batch in batches], [4, 4, 2])
            self.assertEqual([(each.dport, each.flags, each.seq) for each in batches[0][:1]],
                             [(20, RST | ACK, clients[20].ack)])
            self.assertEqual((stack.connections.table, stack.connections.held), ({}, 0))
            stack = make_stack(connections=masscanned.Connections(idle_s=50))
            for client in [Client(stack, sport=port) for port in range(6)]:
                client.talk(GET)
            self.assertEqual([len(wake(stack, NOW + after)) for after in (51, 51.25, 51.5)],
                             [4, 1, 1])

    def test_held(self):
        """A flood of handshakes with requests that never end costs bounded memory."""
        draw = random.Random(SEED)
        most = 100000
        stack = make_stack(connections=masscanned.Connections(held_max=most))
        for number in range(150):
            client = Client(stack, sport=number + 1)
            client.say(b'GET /' + b'x' * draw.randrange(1400))
            for _ in range(draw.randrange(6)):
                client.say(b'x' * 1400)
            if number % 3 == 0:
                client.say(b' HTTP/1.1\r\n\r\n')                # an answer that nobody takes
            self.assertLessEqual(stack.connections.held, most)
            self.assertEqual(stack.connections.held, self.held(stack))
        self.assertGreater(stack.connections.evicted, 50)

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1 fills a table of 65,536 connections')
    def test_heads_that_never_end(self):
        """65,536 connections with as much of a request as is kept: below 150 MB resident."""
        code = """
import masscanned, resource, struct, sys
stack = masscanned.Stack(bytes(6), masscanned.Addresses([(0xc0000000, 0xc0000000)]))
stack.tick(1000.0)
begin = b'POST / HTTP/1.1\\r\\nTransfer-Encoding:' + b'x' * 15900
lines = b'POST / HTTP/1.1\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n1;'
for number in range(65536):
    flow = struct.pack('!IIHH', 0x0a000000 + (number << 8), 0xc0000000, 40000, 80)
    ack = stack.cookies.make(flow, 6, 6) + 1
    data = (begin, lines + b'x' * 2000)[number & 1]
    for at in range(0, len(data), 1400):
        stack.take_segment(flow, 7 + at, ack, 24, b'', data[at:at + 1400], bytes(14))
connections = stack.connections
assert connections.held <= connections.held_max, connections.held
assert connections.held == sum(conn.cost() for conn in connections.table.values())
print(len(connections.table), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
        done = subprocess.run([sys.executable, '-c', code], stdout=subprocess.PIPE, cwd=HERE,
                              timeout=300)
        count, megabytes = map(int, done.stdout.split())
        self.assertGreater(count, 1000)
        if sys.implementation.name == 'cpython':
            self.assertLess(megabytes, 150)

    def test_held_by_one(self):
        """One connection keeps at most 2 * KEPT_MAX of requests and some answers."""
        client = Client(make_stack())
        client.say(b'POST / HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n')
        for _ in range(20):
            client.say(b'x' * 60000)
        self.assertEqual(client.conn.kept, b'')
        client = Client(make_stack(), 445)
        client.say(b'\0\0\xff\xf0\xfeSMB' + b'x' * 50000)
        for _ in range(5):
            client.say(b'x' * 50000)
            self.assertLessEqual(len(client.conn.kept), 2 * masscanned.KEPT_MAX)

    # ---- UDP -------------------------------------------------------------------------

    def test_udp_size(self):
        """Octets beyond the length field are padding."""
        answer, = ask(make_stack(), packet(udp(b'Gh0st')[34:] + b'padding', 17))
        self.assertEqual(answer.data, GH0ST)

    def test_udp_checksum_is_never_0(self):
        for where in ({}, V6):
            answer, = make_stack().answer_frame(udp(unhex('0000 0100', ONE, '00', A_IN), **where))
            at = 14 + (40 if where else 20) + 6
            query = answer[at:at + 2] + unhex('0100', ONE, '00', A_IN)
            answer, = make_stack().answer_frame(udp(query, **where))
            self.assertEqual(answer[at:at + 2], b'\xff\xff')
            read_answer(answer)

    def test_ports(self):
        for sport, dport in ((0, 53), (53, 53), (65535, 0), (80, 65535)):
            answer, = ask(make_stack(), udp(b'Gh0st', sport, dport))
            self.assertEqual((answer.sport, answer.dport), (dport, sport))
            self.assertEqual(Client(make_stack(), dport, sport).talk(GET), KEEP)

    # ---- budget ----------------------------------------------------------------------

    @staticmethod
    def allows(budget, src, grows, now):
        bucket = budget.open(src, now)
        return bool(bucket) and budget.take(bucket, grows)

    def spend(self, budget, src, now, grows=True):
        """How many answers src gets until it gets none."""
        count = 0
        while self.allows(budget, src, grows, now):
            count += 1
            self.assertLess(count, 10000)
        return count

    def test_burst_and_refill(self):
        for near, far in ((packed('10.0.0.9'), packed('10.0.1.1')),
                          (packed('2001:db8::9'), packed('2001:db8:1::1'))):
            budget = masscanned.Budget(8, 2)
            src = near[:-1] + b'\1'
            self.assertEqual(self.spend(budget, src, NOW), 8)
            self.assertEqual(self.spend(budget, near, NOW), 0)              # the same prefix
            self.assertEqual(self.spend(budget, src, NOW + 0.4), 0)
            self.assertEqual(self.spend(budget, src, NOW + 2), 4)
            self.assertEqual(self.spend(budget, src, NOW + 1000), 8)
            self.assertEqual(self.spend(budget, far, NOW + 1000), 8)

    def test_small_answers_go_on(self):
        budget = masscanned.Budget(8, 2)
        self.assertEqual(self.spend(budget, HOST4, NOW), 8)
        self.assertEqual(self.spend(budget, HOST4, NOW, False), 8)
        self.assertEqual(self.spend(budget, HOST4, NOW), 0)
        self.assertEqual(self.spend(budget, HOST4, NOW + 2), 0)         # the debt comes first
        self.assertEqual(self.spend(budget, HOST4, NOW + 2, False), 4)

    def test_total(self):
        budget = masscanned.Budget(8, 2, 100)
        count = sum(self.spend(budget, packed('10.0.%d.1' % net), NOW) for net in range(50))
        self.assertEqual(count, 100)
        count = sum(self.spend(budget, packed('10.1.%d.1' % net), NOW, False) for net in range(50))
        self.assertEqual(count, 100)
        count = sum(self.spend(budget, packed('10.2.%d.1' % net), NOW + 1.5) for net in range(50))
        self.assertEqual(count, 50)

    def test_prefixes_are_bounded(self):
        with patched(masscanned, PREFIXES_MAX=20):
            budget = masscanned.Budget(2, 0)
            self.assertEqual(self.spend(budget, packed('10.0.0.1'), NOW), 2)
            for net in range(1, 19):
                self.allows(budget, packed('10.0.%d.1' % net), True, NOW)
            self.assertFalse(self.allows(budget, packed('10.0.0.1'), True, NOW))
            for net in range(19, 38):
                self.allows(budget, packed('10.0.%d.1' % net), True, NOW)
                self.assertLessEqual(len(budget.prefixes), 20)
            self.assertIn(b'\x0a\0\0', budget.prefixes)
            self.assertNotIn(b'\x0a\0\1', budget.prefixes)

    def test_clock_goes_backwards(self):
        budget = masscanned.Budget(8, 2)
        self.assertEqual(self.spend(budget, HOST4, NOW), 8)
        self.assertEqual(self.spend(budget, HOST4, NOW - 1000), 0)
        self.assertEqual(self.spend(budget, HOST4, NOW - 998), 4)
        stack = make_stack()
        client = Client(stack)
        client.say(GET[:9])
        stack.tick(NOW - 100000)
        self.assertTrue(client.talk(GET[9:]).endswith(BODY))

    def test_budget_of_the_stack(self):
        """UDP only; what is no larger than the request goes on."""
        stack = make_stack(budget=masscanned.Budget(4, 0))
        large = [bool(ask(stack, udp(b'Gh0st'))) for _ in range(6)]
        self.assertEqual(large, [True] * 4 + [False] * 2)
        small = [bool(ask(stack, udp(b'Gh0st' + bytes(17)))) for _ in range(6)]
        self.assertEqual(small, [True] * 2 + [False] * 4)
        self.assertEqual(stack.counts, {'udp budget': 6})
        self.assertEqual(Client(stack).talk(GET * 50), KEEP * 50)
        self.assertTrue(ask(stack, ping()) and ask(stack, arp()))
        stack = make_stack(budget=masscanned.Budget(4, 0))
        small = udp(b'Gh0st' + bytes(17))
        with unittest.mock.patch.object(masscanned, 'answer_datagram',
                                        wraps=masscanned.answer_datagram) as answer:
            for number in range(6):
                ask(stack, udp(JUNK, dport=9999 + number))      # to be silent is work, too
            self.assertEqual([bool(ask(stack, each)) for each in (udp(b'Gh0st'), small, small)],
                             [False, True, False])
            self.assertEqual(answer.call_count, 8)      # who gets no answer is not read
        self.assertEqual(stack.counts, {'udp silence': 6, 'udp budget': 2})

    # ---- loops -----------------------------------------------------------------------

    def facing(self):
        """Two stacks on one wire; frames for the first are from the second."""
        return (make_stack(), make_stack('192.0.0.0,2001:41d0::1234:5678', mac=CLIENT_MAC))

    def test_loops_of_vectors(self):
        stacks = self.facing()
        for name, over, request, _, _ in VECTORS:
            src, dst = addresses_of(name)
            for sport in (40000, 53, port_of(name)):
                with self.subTest(name=name, sport=sport):
                    if over == UDP:
                        frame = udp(request, sport, port_of(name), src, dst)
                    else:
                        frame = Client(stacks[0], port_of(name), sport, src, dst).frame(
                            request[:1400])
                    size = len(stacks[0].answer_frame(frame)) if over == TCP else 1
                    self.assertLessEqual(bounce(stacks, frame), 5 + size)

    def test_loops_of_answers(self):
        """What we say, as the first frame of a loop, between all ports that matter."""
        stacks = self.facing()
        for name, over, _, answer, _ in VECTORS:
            src, dst = addresses_of(name)
            if answer is not None:
                for sport, dport in ((40000, 40001), (53, 53), (5353, 53), (111, 445)):
                    frame = udp(expected_of(answer)[1], sport, dport, src, dst)
                    self.assertLessEqual(bounce(stacks, frame), 4, (name, sport, dport))

    def test_loops_of_frames(self):
        frames = [ping(kind=kind, **where) for kind in (0, 8, 128, 129) for where in ({}, V6)]
        frames += [arp(op=op, sender=sender) for op in (1, 2)
                   for sender in (PEER4, HOST4, bytes(4))]
        frames += [solicitation(), solicitation(src=bytes(16), options=b''),
                   icmp6(136, unhex('60000000') + PEER6 + LINK_OPTION, hops=255)]
        frames += [ping(dst=ALL_NODES4, mac=b'\xff' * 6), ping(dst=b'\xff' * 4, mac=b'\xff' * 6),
                   ping(src=PEER6, dst=ALL_NODES6, mac=unhex('333300000001'))]
        stacks = self.facing()
        for frame in frames:
            self.assertLessEqual(bounce(stacks, frame), 2, frame.hex())

    def test_loops_of_segments(self):
        """All flags, from any number, and with the cookie of either."""
        stacks = self.facing()
        for flags in range(512):
            for where in ({}, V6):
                client = Client(stacks[0], **where)
                for data in b'', GET, JUNK:
                    for seq, ack in ((client.seq, client.ack), (1, 1), (client.ack, client.seq)):
                        self.assertLessEqual(
                            bounce(stacks, tcp(seq, ack, flags, data, **where)), 6,
                            (flags, data, seq, ack))

    # ---- anything --------------------------------------------------------------------

    def first_frames(self, stack):
        """[(function that makes the frame of a payload, payload)] of all vectors."""
        made = []
        for number, (name, over, request, _, _) in enumerate(VECTORS):
            src, dst = addresses_of(name)
            if over == UDP:
                where = dict(sport=40000, dport=port_of(name), src=src, dst=dst)
                made.append((lambda data, where=where: udp(data, **where), request[:1400]))
            else:
                client = Client(stack, port_of(name), 1000 + number, src, dst)
                made.append((client.frame, request[:1400]))
        return made

    def test_anything(self):
        """Vectors as frames, with octets changed above and below the checksums: no exception."""
        draw = random.Random(SEED)
        stacks = [make_stack(own, verify=verify, connections=masscanned.Connections(maximum=200))
                  for own in (BOTH_OWN, '') for verify in (True, False)]
        made = [self.first_frames(stack) for stack in stacks]
        others = [arp(), ping(), ping(**V6), solicitation(), tcp(1, 0, SYN), tcp(
            1, 0, SYN, b'', unhex('020405b4'), **V6), EXACT[10][1]]
        count = answered = 0
        for count in range(100000 if TEST_ALL else 5000):
            at = draw.randrange(4)
            stack, (build, request) = stacks[at], draw.choice(made[at])
            way = draw.random()
            if way < 0.5:
                frame = build(mutate(request, draw)[:60000])
            elif way < 0.9:
                frame = mutate(build(request), draw)
            else:
                frame = mutate(draw.choice(others), draw)
            try:
                answers = stack.answer_frame(frame, draw.random() < 0.3)
                for answer in answers:
                    read_answer(answer)
            except Exception as error:
                self.fail('SEED=%d %s: %r %s' % (SEED, frame.hex(), error, count))
            answered += bool(answers)
        self.assertGreater(answered, count // 10)
        for stack in stacks:
            self.assertEqual(stack.connections.held, self.held(stack))

    def test_cut_anywhere(self):
        """Frames of each kind, cut at each length."""
        client = Client(make_stack())
        stacks = [make_stack(verify=verify) for verify in (True, False)]
        for frame in [row[1] for row in EXACT] + [tcp(1, 0, SYN), tcp(1, 0, SYN, **V6),
                                                  client.frame(GET), udp(QUERY, **V6)]:
            for end in range(len(frame)):
                for stack in stacks:
                    for answer in stack.answer_frame(frame[:end]):
                        read_answer(answer)


# ==== Responder: link =================================================================

class KeptClaims:
    """What stands in for Claims: a list."""

    def __init__(self):
        self.kept = []

    def note(self, ip, mac):
        self.kept.append((ip, mac))

    def take(self):
        kept, self.kept = self.kept, []
        return kept


class Announcements(unittest.TestCase):
    """What is sent unasked, and who else has an address: by a clock of our own, no sockets."""

    def announcer(self, *addresses):
        """-> an Announcer, what it hears of, what it tells."""
        claims, told = KeptClaims(), []
        return masscanned.Announcer(MAC, lambda: list(map(packed, addresses)), claims.take,
                                    told.append), claims, told

    def run_through(self, announcer, now=NOW, until=None):
        """From one due time to the next -> [(seconds since the start, frame)]."""
        sent, start = [], now
        while announcer.next_due() is not None and (until is None or now - start < until):
            self.assertLessEqual(announcer.next_due() - now, masscanned.ANNOUNCE_GAP_S)
            now = announcer.next_due()
            sent += [(round(now - start, 3), frame) for frame in announcer.tick(now)]
        return sent

    def test_schedule(self):
        """Three probes, then two announcements, at the distances of RFC 5227 s1.1."""
        announcer, _, told = self.announcer('192.0.0.1')
        self.assertEqual((announcer.next_due(), announcer.tick(NOW)), (None, ()))
        announcer.begin(NOW)
        self.assertEqual(announcer.tick(NOW - 0.1), ())             # not yet
        sent = self.run_through(announcer)
        head = b'\xff' * 6 + MAC + unhex('0806 0001 0800 06 04 0001') + MAC
        probe, news = (head + sender + bytes(6) + HOST4 for sender in (bytes(4), HOST4))
        self.assertEqual(sent, [(0, probe), (1.02, probe), (2.04, probe), (4.06, news),
                                (6.08, news)])
        self.assertEqual((announcer.next_due(), told), (None, []))

    def test_ipv6(self):
        """Solicitations from :: and unsolicited advertisements, their sums right."""
        announcer, _, _ = self.announcer('2001:41d0::ab32:bdb8')
        announcer.begin(NOW)
        probe, _, _, news, _ = [frame for _, frame in self.run_through(announcer)]
        self.assertEqual(probe[:14], unhex('3333ff32bdb8') + MAC + unhex('86dd'))
        message = probe[54:]
        self.assertEqual(probe[14:54], unhex('60000000 0018 3a ff') + bytes(16) + SOLICITED6)
        self.assertEqual(add_up(pseudo_header(bytes(16), SOLICITED6, 58, 24) + message), 0xffff)
        self.assertEqual(message[:2] + message[4:], unhex('8700 00000000') + HOST6)
        answer = read_answer(news)
        self.assertEqual((answer.client, answer.src, answer.dst, answer.hops),
                         (unhex('333300000001'), HOST6, ALL_NODES6, 255))
        self.assertEqual(answer.data[:2] + answer.data[4:], unhex('8800 20000000') + HOST6
                         + unhex('0201') + MAC)

    def test_pace(self):
        """A full table: never more than 20 announcements a second, all in two minutes."""
        addresses = [(0x0a000000 + number).to_bytes(4, 'big') for number in range(1024)]
        announcer = masscanned.Announcer(MAC, lambda: addresses, KeptClaims().take, None)
        announcer.begin(NOW)
        sent = self.run_through(announcer)
        self.assertEqual(len({frame for _, frame in sent}), 2 * 1024)
        self.assertEqual(len(sent), 5 * 1024)
        self.assertLess(sent[-1][0], 120)
        for most, times in (50, [second for second, _ in sent]), (
                20, [second for second, frame in sent if frame[28:32] != bytes(4)]):
            self.assertGreater(min(after - before for before, after in zip(times, times[most:])),
                               0.999)
        when = collections.defaultdict(list)
        for second, frame in sent:
            when[frame[38:42]].append(second)
        for each in when.values():
            self.assertEqual([round(second - each[0], 3) for second in each],
                             [0, 1.02, 2.04, 4.06, 6.08])

    def test_taken(self):
        """Of whom somebody else has it is told once, and no more is sent; the others go on."""
        announcer, claims, told = self.announcer('192.0.0.1', '192.0.0.2')
        claims.note(HOST4, OTHER_MAC)                       # of before: forgotten
        announcer.begin(NOW)
        sent = self.run_through(announcer, until=0.05)
        claims.note(HOST4, OTHER_MAC)
        claims.note(HOST4, OTHER_MAC)
        sent += self.run_through(announcer, announcer.next_due())
        self.assertEqual(collections.Counter(frame[38:42] for _, frame in sent),
                         {HOST4: 1, packed('192.0.0.2'): 5})
        self.assertEqual(told, ['192.0.0.1: %s has it, too: not announced' % mac_text(OTHER_MAC)])
        announcer.begin(NOW)                                # next time it is tried again
        self.assertEqual(len(self.run_through(announcer)), 10)

    def test_many_taken(self):
        """A router that answers for all: some lines, and how many more there are."""
        announcer, claims, told = self.announcer(*['192.0.0.%d' % each for each in range(1, 100)])
        announcer.begin(NOW)
        for number in range(1, 60):
            claims.note(bytes((192, 0, 0, number)), OTHER_MAC)
        sent = self.run_through(announcer)
        self.assertEqual(len(sent), 40 * 5)
        self.assertEqual(len(told), masscanned.CLAIMS_TOLD + 1)
        self.assertEqual(told[-1], '51 addresses more are those of others, too: not announced')
        claims.note(bytes((192, 0, 0, 99)), OTHER_MAC)
        self.assertEqual((announcer.tick(NOW + 1000), announcer.next_due()), ((), None))

    def test_clock(self):
        """A clock that is set: no burst, no standing still."""
        announcer, _, _ = self.announcer('192.0.0.1', '192.0.0.2')
        announcer.begin(NOW)
        announcer.tick(NOW)
        for now in NOW + 3600, NOW, NOW - 3600, NOW - 86400:
            self.assertEqual(len(announcer.tick(now)), 1)
            self.assertEqual(announcer.tick(now), ())
            self.assertLess(abs(announcer.next_due() - now), 3)

    def test_addresses(self):
        """Both families by turns, without what is no host's or this host's; at most 1,024."""
        stack = make_stack(
            '192.0.0.0/30,224.0.0.1,10.0.0.1,2001:db8::1-2001:db8::3,ff02::fb,::1',
            place=masscanned.NO_PLACE._replace(
                hosts=frozenset(map(ipaddress.ip_address, ('10.0.0.1', '2001:db8::2'))),
                broadcasts=frozenset((0xc0000003,))))
        self.assertEqual(
            [masscanned.ip_text(each) for each in masscanned.announced_addresses(stack)],
            ['192.0.0.0', '2001:db8::1', '192.0.0.1', '2001:db8::3', '192.0.0.2'])
        stack = make_stack('10.0.0.0/8,2001:db8::/32')
        self.assertEqual(len(masscanned.announced_addresses(stack)), 1024)
        self.assertEqual(masscanned.announced_addresses(make_stack('')), [])

    # what a neighbour sends, of which address of ours it says that it has it
    CLAIMS = [
        ('ARP reply', arp(HOST4, HOST4, op=2), HOST4),
        ('ARP reply to us', arp(PEER4, HOST4, op=2, dst=MAC), HOST4),
        ('ARP request of its own', arp(PEER4, HOST4), HOST4),
        ('ARP probe', arp(HOST4, bytes(4)), HOST4),
        ('ARP announcement', arp(HOST4, HOST4), HOST4),
        ('ARP reply of our own MAC', arp(HOST4, HOST4, op=2, address=MAC), None),
        ('ARP reply of another', arp(HOST4, PEER4, op=2), None),
        ('ARP request', arp(), None),
        ('advertisement', icmp6(136, bytes(4) + HOST6, src=HOST6, dst=ALL_NODES6, hops=255),
         HOST6),
        ('advertisement to us', icmp6(136, bytes(4) + HOST6 + LINK_OPTION, hops=255), HOST6),
        ('advertisement of another', icmp6(136, bytes(4) + TARGET, hops=255), None),
        ('advertisement from afar', icmp6(136, bytes(4) + HOST6, hops=254), None),
        ('advertisement, code 1', icmp6(136, bytes(4) + HOST6, hops=255, code=1), None),
        ('advertisement, cut', icmp6(136, bytes(4) + HOST6[:-1], hops=255), None),
        ('advertisement, spoilt', spoil(icmp6(136, bytes(4) + HOST6, hops=255), 58), None),
        ('advertisement of our own MAC', icmp6(136, bytes(4) + HOST6, hops=255, client=MAC), None),
        ('somebody tries it out', solicitation(src=bytes(16), options=b''), HOST6),
        ('solicitation', solicitation(), None),
    ]

    def test_claims(self):
        """What says so, and what does not; without anybody to tell it is as ever."""
        for name, frame, address in self.CLAIMS:
            with self.subTest(name):
                stack, quiet = make_stack(), make_stack()
                stack.claims = KeptClaims()
                self.assertEqual(list(stack.answer_frame(frame)), list(quiet.answer_frame(frame)))
                self.assertEqual((stack.fate, stack.counts), (quiet.fate, quiet.counts))
                self.assertEqual(stack.claims.take(), [(address, CLIENT_MAC)] if address else [])
                for own in '', '10.0.0.1', 'fd00::1':
                    stack = make_stack(own)
                    stack.claims = KeptClaims()
                    stack.answer_frame(frame)
                    self.assertEqual(stack.claims.take(), [])

    def test_pipe(self):
        """The pipe of the workers: both families, in order; a flood is cut, not waited for."""
        claims = masscanned.Claims()
        self.addCleanup(os.close, claims.pipe)
        self.addCleanup(os.close, claims.end)
        self.assertEqual(claims.take(), [])
        wanted = [(HOST4, MAC), (HOST6, OTHER_MAC), (bytes(4), MAC)]
        for each in wanted:
            claims.note(*each)
        self.assertEqual((claims.take(), claims.take()), (wanted, []))
        for _ in range(10000):
            claims.note(HOST6, MAC)
        count = 0
        for block in iter(claims.take, []):
            self.assertEqual(set(block), {(HOST6, MAC)})
            count += len(block)
        self.assertTrue(2000 < count < 10000, count)

    def test_attendant(self):
        """It looks once a second: at the MTU, and whether the link has come up."""
        class Link:
            """A link of which the interface tells what we want."""
            name, herald, loopback, ethernet, falls, mtu = 'x', False, False, True, 0, 1500

            def set_mtu(self, mtu):
                self.mtu = mtu
        mtu, running, looks, begun = [1500], [0], [], []
        teller = types.SimpleNamespace(begin=begun.append)
        link, stack = Link(), make_stack()
        attendant = masscanned.Attendant(link, stack, [teller])

        def flags(name):
            looks.append(name)
            if running[0] is None:
                raise OSError(19, 'No such device')
            return running[0]
        with patched(masscanned, interface_mtu=lambda _: mtu[0], interface_flags=flags,
                     look_around=lambda link: WIDE['place']):
            for now, is_running, falls, size, times in (
                    (0, 0, 0, 1500, 0), (0.5, 64, 0, 1500, 0), (1, 64, 0, 1500, 1),
                    (2, 64, 0, 9000, 1), (3, 0, 0, 9000, 1), (4, 64, 0, 9000, 2),
                    (5, 64, 1, 1400, 3), (6, 64, 1, 1400, 3), (7, None, 1, 1400, 3),
                    (8, 64, 1, 1400, 3), (-3600, 64, 2, 1400, 4)):
                running[0], link.falls, mtu[0] = is_running, falls, size
                self.assertEqual(attendant.tick(NOW + now), ())
                self.assertEqual((link.mtu, stack.mtu), (size, size), now)
                self.assertEqual(len(begun), times, now)
                self.assertEqual(attendant.next_due(), NOW + int(now) + 1)
        self.assertEqual(len(looks), 10)
        self.assertEqual(stack.place, WIDE['place'])
        self.assertEqual(stack.four.mss, 1360)

    def test_send_due(self):
        """What is due is sent and counted; a bug in one does not keep the others from it."""
        sent, stack = [], make_stack()
        link = types.SimpleNamespace(send=sent.extend)
        timers = [types.SimpleNamespace(tick=lambda now, frames=frames: frames[now])
                  for frames in ([(b'a',), ()], [()], [(b'b', b'c'), (b'd',)])]
        for now in 0, 1:
            masscanned.send_due(link, stack, timers, [], now)
        self.assertEqual((sent, stack.unasked), ([b'a', b'b', b'c', b'd'], 4))
        self.assertEqual((len(stack.faults), stack.counts), (1, {'eth fault': 1}))

    # program, [(octets of the link's head or packet, type of the packet, its EtherType, let in)]
    FILTERS = [
        (lambda: masscanned.packet_filter(MAC), [
            (ping(), 0, 0x800, True), (ping(), 4, 0x800, False),
            (ping(mac=b'\xff' * 6), 0, 0x800, True), (ping(mac=CLIENT_MAC), 0, 0x800, False),
            (ping(mac=MAC[:5] + b'x'), 0, 0x800, False), (arp(), 0, 0x806, True),
            (ping(**V6), 0, 0x86dd, True), (ping(tags=unhex('81000001')), 0, 0x8100, True),
            (ether(bytes(50), 0x88cc), 0, 0x88cc, False)]),
        (masscanned.layer3_filter, [
            (ping()[14:], 0, 0x800, True), (ping()[14:], 4, 0x800, False),
            (ping(**V6)[14:], 0, 0x86dd, True), (ping()[14:], 0, 0x8847, False)])]

    def test_filters(self):
        """By a machine of our own, which knows five instructions."""
        for make, rows in self.FILTERS:
            program = list(struct.iter_unpack('=HBBI', make()))
            for octets, kind, ethertype, let_in in rows:
                with self.subTest(octets=octets[:14].hex(), kind=kind):
                    at = value = 0
                    while program[at][0] != 6:
                        code, true, false, k = program[at]
                        at += 1
                        if code in (0x15, 0x45):
                            at += true if (value == k if code == 0x15 else value & k) else false
                        elif k >= 0xfffff000:
                            value = {0xfffff000: ethertype, 0xfffff004: kind}[k]
                        else:
                            size = {0x20: 4, 0x28: 2, 0x30: 1}[code]
                            value = int.from_bytes(octets[k:k + size], 'big')
                    self.assertEqual(bool(program[at][3]), let_in)

    def test_lowest_bits(self):
        """Of lists of any size: what multicast MACs can have of them."""
        for own, bits, expected in (
                ('192.0.0.1', 23, [(1, 1)]), ('192.128.0.1,192.0.0.1-192.0.0.3', 23, [(1, 3)]),
                ('10.127.255.255-10.128.0.1', 23, [(0, 1), (0x7fffff, 0x7fffff)]),
                ('10.0.0.0/8', 23, [(0, 0x7fffff)]), ('10.0.0.1-10.128.0.0', 23, [(0, 0x7fffff)]),
                ('2001:db8::/64', 24, [(0, 0xffffff)]),
                ('2001:db8::ff:ffff-2001:db8::100:0', 24, [(0, 0), (0xffffff, 0xffffff)])):
            with self.subTest(own=own):
                four, six = own_lists(own)
                self.assertEqual((four or six).lowest_bits(bits), expected)

    def test_without(self):
        four, _ = own_lists('10.0.0.0-10.0.0.3,10.0.0.2-10.0.0.9,10.1.0.0-10.3.255.255')
        less = four.without((0x0a000000, 0x0a000002, 0x0a000009, 0x0a010000, 7))
        self.assertEqual(less.ranges, [
            (0x0a000001, 0x0a000001), (0x0a000003, 0x0a000003), (0x0a000003, 0x0a000008),
            (0x0a010001, 0x0a03ffff)])
        for number in (0x0a000000, 0x0a000002, 0x0a000009):
            self.assertNotIn(number, less.members)
        self.assertIn(0x0a000001, less.members)
        self.assertIs(four.without((7,)), four)

    # /proc/net/route and ipv6_route, and what is seen from eth1
    ROUTES4 = [('eth1', '0.0.0.0', '10.0.0.1', '0.0.0.0'),          # the default route
               ('eth1', '10.0.0.0', '0.0.0.0', '255.255.255.0'),
               ('eth1', '10.1.0.8', '0.0.0.0', '255.255.255.254'),
               ('eth1', '10.1.0.9', '0.0.0.0', '255.255.255.255'),
               ('eth1', '10.2.0.0', '10.0.0.9', '255.255.255.0'),
               ('eth0', '10.3.0.0', '0.0.0.0', '255.255.255.0'),
               ('eth1', '0.0.0.0', '0.0.0.0', '0.0.0.0')]
    ROUTES6 = [('::', '00', '::', '00', 'fe80::1'), ('fd00::', '40', '::', '00', '::'),
               ('::', '00', '::', '00', '::'), ('fd01::', '40', '::', '00', 'fe80::2')]

    def test_look_around(self):
        def words(row):
            return ['%08X' % int.from_bytes(packed(each), sys.byteorder) if '.' in each else
                    packed(each).hex() if ':' in each else each for each in row]
        tables = {'/proc/net/route': [['Iface']], '/proc/net/ipv6_route': map(words, self.ROUTES6)}
        for row in self.ROUTES4:
            name, first, gateway, mask = words(row)
            tables['/proc/net/route'].append([name, first, gateway, '0003', '0', '0', '0', mask])
        link = types.SimpleNamespace(name='eth1', loopback=False, ethernet=True)
        with patched(masscanned, read_table=tables.get, host_addresses=lambda: {1}):
            place = masscanned.look_around(link)
        self.assertEqual(place, masscanned.Place(
            frozenset((1,)), frozenset((0x0a000000, 0x0a0000ff)),
            frozenset(map(ipaddress.ip_address, ('10.0.0.1', 'fe80::1'))), False, True))
        self.assertEqual(masscanned.read_table('/nowhere'), [])

    def test_warnings(self):
        """What is better not in the list is told; a list without it is not."""
        place = masscanned.NO_PLACE._replace(
            hosts=frozenset((ipaddress.ip_address('10.0.0.2'),)),
            broadcasts=frozenset((0x0a000000, 0x0a0000ff)),
            gateways=frozenset(map(ipaddress.ip_address, ('10.0.0.1', 'fe80::1'))))
        link = types.SimpleNamespace(name='eth1')
        tap = [ipaddress.ip_network('10.0.0.0/24')]
        for own, taps, words in (
                ('10.0.0.7,fd00::1', [], []), ('', [], []),
                ('10.0.0.2', [], ['10.0.0.2: an address of this host']),
                ('10.0.0.0/24', [], ['10.0.0.2: an address', '10.0.0.0, 10.0.0.255: network or '
                                     'broadcast address of eth1', '10.0.0.1: a default router']),
                ('fe80::/64', [], ['fe80::1: a default router']),
                ('10.0.0.1', tap, ["10.0.0.1: this host's end of the TAP", '10.0.0.1: a default']),
                ('10.0.0.2', tap, [])):
            with self.subTest(own=own, tap=bool(taps)):
                told = []
                with patched(masscanned, say=told.append):
                    masscanned.warn_of_addresses(link, *own_lists(own),
                                                 types.SimpleNamespace(tap=taps), place)
                self.assertEqual(len(told), len(words), told)
                for line, start in zip(told, words):
                    self.assertEqual(line[:len(start)], start)


# ==== Responder: live =================================================================

NEAR_MAC, FAR_MAC, THIRD_MAC, OTHER_MAC = (bytes((2, 0, 0, 0x88, 0, last))
                                           for last in (1, 2, 9, 0x99))
PROTO_SUM_AT = {1: 2, 6: 16, 17: 6, 58: 2}      # IP protocol: where its checksum stands
LAYER_NAMES = 'arp', 'eth', 'ipv4', 'ipv6', 'icmpv4', 'icmpv6', 'tcp', 'udp'
DNS_QUERY = (b'\x12\x34\x01\0\0\x01\0\0\0\0\0\0' b'\x03www\x07example\x03org\0\0\x01\0\x01')
STUN_REQUEST = b'\0\x01\0\0\x21\x12\xa4\x42' + bytes(range(12))
RPC_NULL = struct.pack('!10I', 0x77, 0, 2, 100000, 2, 0, 0, 0, 0, 0)


def inet_sum(data):
    """RFC 1071, never 0."""
    data += bytes(len(data) % 2)
    return 0xffff - sum(struct.unpack('!%dH' % (len(data) // 2), data)) % 0xffff


def live_packed(address):
    return ipaddress.ip_address(address).packed


def ip_packet(src, dst, proto, data, error=0):
    """IPv4 or IPv6; the checksum of layer 4 is filled in, wrong by error."""
    src, dst = live_packed(src), live_packed(dst)
    pseudo = b'' if proto == 1 else src + dst + struct.pack('!II', len(data), proto)
    at = PROTO_SUM_AT.get(proto)
    if at:
        data = data[:at] + bytes(2) + data[at + 2:]
        total = (inet_sum(pseudo + data) + error) & 0xffff
        data = data[:at] + total.to_bytes(2, 'big') + data[at + 2:]
    if len(src) == 16:
        return struct.pack('!IHBB', 6 << 28, len(data), proto, 64) + src + dst + data
    head = struct.pack('!BBHIBBH', 0x45, 0, 20 + len(data), 0, 64, proto, 0) + src + dst
    return head[:10] + inet_sum(head).to_bytes(2, 'big') + head[12:] + data


def echo(number, data=b'abcdefgh', kind=8):
    return struct.pack('!BBHHH', kind, 0, 0, 0x8888, number) + data


def live_udp(sport, dport, data=b''):
    return struct.pack('!HHHH', sport, dport, 8 + len(data), 0) + data


def live_tcp(sport, dport, seq, ack, flags, data=b''):
    return struct.pack('!HHIIHHHH', sport, dport, seq, ack, 5 << 12 | flags, 64240, 0, 0) + data


def arp_request(mac, src, dst):
    return struct.pack('!HHBBH6s4s6s4s', 1, 0x800, 6, 4, 1, mac, live_packed(src), bytes(6),
                       live_packed(dst))


def mac_text(mac):
    return ':'.join('%02x' % octet for octet in mac)


@contextlib.contextmanager
def entered(namespace):
    """This thread stands in a namespace for a while: sockets made here stay there."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open('/proc/thread-self/ns/net') as home, open('/run/netns/' + namespace) as there:
        if libc.setns(there.fileno(), 0):
            raise OSError(ctypes.get_errno(), 'setns')
        try:
            yield
        finally:
            if libc.setns(home.fileno(), 0):
                os._exit(70)                    # nothing may go on in the wrong place


class JsonFormat(masscanned.Format):
    """A third format: all layers of a frame as one object a line."""

    def inwards(self, stamp, view, segment, depth):
        return self.outwards(stamp, 'recv', view, segment, depth, None)

    def outwards(self, stamp, verb, view, segment, depth, fate):
        found = {'ts': float(stamp), 'verb': verb, 'fate': fate, 'share': '100 %d',
                 'eth': {'type': view.ethertype, 'macs': view.macs}}
        if depth:
            found[view.name] = {'hosts': view.hosts, 'ips': view.ips, 'what': view.what}
        if segment:
            found[segment.name] = segment._asdict()
        return json.dumps(found) + '\n'


class FakeLink:
    """A link whose rounds of frames are given; when there are no more, `stop` has come.

    sent, waits     frames of each send(), and milliseconds of each wait()
    """
    herald, mac, name = True, MAC, 'fake'

    def __init__(self, rounds, stop):
        self.rounds, self.stop, self.sent, self.waits = list(rounds), stop, [], []
        self.poll, self.unsent = unittest.mock.Mock(), {}

    def receive(self):
        if not self.rounds:
            self.stop.came = signal.SIGTERM
            return [], 0
        return self.rounds.pop(0), 0

    def send(self, frames):
        self.sent.append(list(frames))

    def wait(self, timeout_ms):
        self.waits.append(timeout_ms)

    def settle(self):
        pass

    lost = staticmethod(int)


class Recorder(masscanned.Observer):
    """What an observer is shown, by name."""
    on_events = True

    def __init__(self):
        self.seen = []

    def frame(self, now, frame, fate, answers):
        self.seen.append(('frame', frame, list(answers)))

    def unasked(self, now, frames):
        self.seen.append(('unasked', list(frames)))

    def event(self, now, event):
        self.seen.append(('event', event.kind, event.fields))


class Journals(Case):
    """What is written down, and what happens when it cannot be."""

    def setUp(self):
        super().setUp()
        self.said = []
        change = patched(masscanned, say=self.said.append)
        change.__enter__()
        self.addCleanup(change.__exit__, None, None, None)

    def journal(self, name='log', **more):
        """A Journal on a new file, at its place in time."""
        fd = os.open(self.path(name), os.O_WRONLY | os.O_CREAT)
        self.addCleanup(os.close, fd)
        return masscanned.Journal(fd, **more)

    def write(self, journal, text, now=NOW, count=1):
        """Lines about so many frames -> whether they were taken; written if they were."""
        taken = journal.takes(now, count)
        if taken:
            journal.texts.append(text)
        journal.flush(now)
        return taken

    # ---- formats ---------------------------------------------------------------------

    def test_third_format(self):
        """JSON of all layers: each line is an object, numbers are numbers, also in columns."""
        frames = [tcp(seq, 0, SYN, sport=seq, src=packed('1.2.3.%d' % seq)) for seq in range(40)]
        stack = make_stack()
        log = packet_log(JsonFormat)
        log.openings(NOW, frames, list(stack.answer_alike(frames)), stack.openings)
        log.journal.encode()
        lines = [json.loads(line) for line in b''.join(log.journal.blocks).splitlines()]
        self.assertEqual(len(lines), 80)
        for seq, (came, back) in enumerate(zip(lines[::2], lines[1::2])):
            self.assertEqual(came['tcp']['numbers'], [seq, 0])
            self.assertEqual(came['ipv4']['ips'][0], '1.2.3.%d' % seq)
            self.assertEqual((back['verb'], back['tcp']['what']), ('send', SYN | ACK))
            self.assertEqual((back['tcp']['numbers'][1], back['share']), (seq + 1, '100 %d'))

    def test_unasked(self):
        """A frame that no frame has caused is logged as an answer of its own, of every kind."""
        stack = make_stack()
        client = Client(stack, 22)
        for frame in (tcp(7, 0, SYN), udp(DNS_QUERY), ping(), arp(), Client(stack).frame(GET),
                      tcp(7, 0, SYN, **V6), ping(**V6)):
            answers = stack.answer_frame(frame)
            for kind in masscanned.ConsoleFormat, masscanned.LogfmtFormat:
                logs = packet_log(kind), packet_log(kind)
                logs[0].frame(NOW, frame, None, answers)
                logs[1].unasked(NOW, answers)
                texts = [''.join(log.journal.texts) for log in logs]
                where = texts[0].index('send')
                where = texts[0].rindex('\n', 0, where) + 1
                self.assertEqual(texts[0][where:], texts[1])
        client.send(b'', ACK)
        frames = stack.tick(NOW + 0.2)
        log = packet_log()
        log.unasked(NOW + 0.2, frames)
        self.assertEqual([line.split('\t')[1:4] for line in
                          ''.join(log.journal.texts).splitlines()],
                         [['tcp', 'send', str(ACK | PSH)], ['ipv4', 'send', 'Tcp'],
                          ['eth', 'send', 'Ipv4']])
        self.assertEqual((log.journal.count, log.due), (1, NOW + 0.2 + masscanned.FLUSH_S))

    # ---- journals --------------------------------------------------------------------

    def test_full_disk(self):
        """It waits for room, says so once, loses nothing, and the file ends with a whole line."""
        journal = self.journal(lock=tempfile.TemporaryFile())
        self.addCleanup(journal.lock.close)
        self.write(journal, 'one\n')
        with self.file_limit(10):
            self.assertTrue(self.write(journal, 'two two\nthree\n'))
            self.assertEqual(self.read('log'), b'one\n')
            self.assertEqual(journal.due, NOW + masscanned.RETRY_S)
            self.assertFalse(journal.held)
            self.assertTrue(self.write(journal, 'four\n', NOW + 1, 1000))
            self.assertTrue(journal.takes(NOW + 1.5, 1))
            self.assertEqual(journal.due, NOW + 1 + masscanned.RETRY_S)     # not at once
            with patched(masscanned, WAITING_MAX=8):
                journal.flush(NOW + 2)
            self.assertFalse(self.write(journal, 'lost', NOW + 3, 7))
        self.assertEqual(self.said, ['standard output: File too large: the packet log waits for '
                                     'room'])
        journal.flush(NOW + 4)
        self.assertEqual(self.said[1:], ['standard output: there is room again: the packet log '
                                         'goes on, 7 frames are missing'])
        self.assertTrue(self.write(journal, 'five\n', NOW + 5))
        self.assertEqual(self.read('log'), b'one\ntwo two\nthree\nfour\nfive\n')
        self.assertEqual((journal.missed, journal.due, journal.failed), (7, None, None))

    def test_full_in_a_line(self):
        """A line that was half written is cut off, or its rest follows; nothing is twice."""
        real, room = os.write, [0]

        def write(fd, data):
            size = min(len(data), room[0])
            if not size:
                raise OSError(errno.EDQUOT, 'quota')
            room[0] -= size
            return real(fd, data[:size])
        for name, cut in (('cut', os.ftruncate), ('append-only', None)):
            journal = self.journal(name)
            cut = cut or unittest.mock.Mock(side_effect=PermissionError(errno.EPERM, 'no'))
            with patched(os, write=write, ftruncate=cut):
                room[0] = 6
                self.write(journal, 'one\ntwo\n')
                self.assertEqual(self.read(name), b'one\n' if name == 'cut' else b'one\ntw')
                self.write(journal, 'three\n', NOW + 1)
                room[0] = 1
                journal.flush(NOW + 2)
                room[0] = 99
                journal.flush(NOW + 3)
            self.assertEqual(self.read(name), b'one\ntwo\nthree\n')

    def test_gone(self):
        """Another error ends it, said once; frames are no longer taken."""
        near, far = os.pipe()
        os.close(near)
        journal = masscanned.Journal(far, 'standard output', 'packet log')
        self.assertTrue(self.write(journal, 'one\n'))
        self.assertFalse(self.write(journal, 'two\n'))
        os.close(far)
        self.assertEqual(self.said, ['standard output: Broken pipe: no packet log from here on'])
        self.assertEqual((journal.missed, journal.due), (0, None))

    def test_append(self):
        """Several that write to one file append, and so does who opened it elsewhere."""
        journal, other = self.journal(), self.journal()
        self.write(journal, 'one\n')
        self.write(other, 'two\n')
        self.write(journal, 'three\n')
        self.assertEqual(self.read('log'), b'one\ntwo\nthree\n')

    def test_stalled_reader(self):
        """A reader that stalls, on a pipe that does not block either, gets all of it, whole."""
        near, far = os.pipe()
        os.set_blocking(far, False)
        journal, got = masscanned.Journal(far), b''
        text = ''.join('%d\n' % number for number in range(40000)) + 'x' * 9000 + '\n'
        self.write(journal, text)
        self.assertTrue(journal.waiting)
        self.assertEqual(journal.due, NOW + masscanned.FLUSH_S)
        while journal.waiting or len(got) < len(text):
            got += os.read(near, 1 << 16)
            journal.flush(NOW)
        os.close(near)
        os.close(far)
        self.assertEqual((got.decode(), journal.due), (text, None))

    def test_lock(self):
        """Another worker writes, and was perhaps stopped in it: nobody waits for it."""
        journal = self.journal(lock=tempfile.TemporaryFile())
        self.addCleanup(journal.lock.close)
        refuse = unittest.mock.Mock(side_effect=BlockingIOError(errno.EAGAIN, 'locked'))
        with patched(fcntl, lockf=refuse):
            self.write(journal, 'one\n')
            self.assertEqual((self.read('log'), journal.due), (b'', NOW + masscanned.FLUSH_S))
            with patched(masscanned, LOCK_POLL_S=0):
                journal.flush(NOW, 0.001)
            self.assertGreater(refuse.call_count, 2)
        journal.flush(NOW)
        self.assertEqual(self.read('log'), b'one\n')

    def test_due(self):
        """The first line counts; much of it is written at once."""
        journal = self.journal()
        self.assertIsNone(journal.due)
        for now, count, due in ((NOW, 1, NOW + masscanned.FLUSH_S),
                                (NOW + 0.1, masscanned.BLOCK_EVENTS - 1, NOW + masscanned.FLUSH_S),
                                (NOW + 0.15, 1, NOW + 0.15)):
            self.assertTrue(journal.takes(now, count))
            self.assertEqual(journal.due, due)

    # ---- events ----------------------------------------------------------------------

    def test_note(self):
        """What answerers note is an Event, where somebody listens; -v prints one line of each."""
        host = masscanned.Host()
        peer = masscanned.Peer(TCP, packed('192.0.2.1'), HOST4, 1234, 21, NOW, host)
        peer.note('login', user='x')
        self.assertIsNone(host.events)
        host.events = []
        peer.protocol = masscanned.PROTOCOLS['ssh']
        for fields, text in (
                ({}, ''), ({'user': 'bob', 'tries': 3}, ' user=bob tries=3'),
                ({'password': b'\x1b[2J secret\r\nmore'}, " password='\\x1b[2J secret'"),
                ({'user': 'a b'}, " user='a b'"), ({'user': ''}, " user=''"),
                ({'user': '\x9b\u202e'}, " user='\\x9b\\u202e'"), ({'user': "o'x"}, ' user="o\'x"'),
                ({'user': 'y' * 999}, ' user=' + 'y' * 60)):
            del self.said[:]
            peer.note('login', **fields)
            event = host.events.pop()
            self.assertEqual((event.kind, event.peer), ('login', peer))
            masscanned.Teller().event(NOW, event)
            self.assertEqual(self.said, ['ssh login%s from 192.0.2.1 port 1234 to port 21' % text])
            self.assertTrue(self.said[0].isprintable())

    def test_answers_told(self):
        """Each answer over TCP and UDP, whose protocol it was, also when that has handed over."""
        def grant(data, peer):
            return masscanned.Reply(b'granted', len(data), again=True)
        granting = masscanned.PROTOCOLS['http']._replace(name='grant', answer=grant)
        stack = make_stack(host=masscanned.Host(protocols=[granting]))
        stack.host.events = []
        Client(stack).talk(GET)
        stack.answer_frame(udp(GET))
        masscanned.hand_events(stack, [masscanned.Teller()], NOW)
        text = "grant to 192.0.2.7 port 40000, from our port 80: 7 octets for 'GET / HTTP/1.1'"
        self.assertEqual([re.sub(r'[0-9.]+ port [0-9]+', '192.0.2.7 port 40000', line, 1)
                          for line in self.said], [text, text.replace('port 80', 'port 53')])
        self.assertFalse(stack.take_events())

    # ---- the loop --------------------------------------------------------------------

    def run_loop(self, stack, rounds, *observers):
        """Serve rounds of frames -> the FakeLink."""
        stop = types.SimpleNamespace(came=0, wake=0)
        link = FakeLink(rounds, stop)
        masscanned.serve(link, stack, stop, observers)
        return link

    def test_tick_every_turn(self):
        """What is due is sent, counted and shown, also where no frame comes."""
        stack, seen = make_stack(), Recorder()
        ticks = [[b'1', b'2'], [], [b'3'], []]
        stack.tick = lambda now: ticks.pop(0)
        stack.next_due = lambda: None
        frame = tcp(7, 0, SYN)
        link = self.run_loop(stack, [[], [frame], []], seen)
        answers = stack.answer_frame(frame)
        self.assertEqual(link.sent, [[b'1', b'2'], list(answers), [b'3']])
        self.assertEqual((stack.sent, stack.unasked, stack.received), (1, 3, 1))
        self.assertEqual(seen.seen, [('unasked', [b'1', b'2']), ('frame', frame, list(answers)),
                                     ('unasked', [b'3'])])

    def test_tick_fails(self):
        """A bug in what is due is counted, and the loop goes on."""
        stack = make_stack()
        stack.tick = unittest.mock.Mock(side_effect=KeyError('bug'))
        link = self.run_loop(stack, [[tcp(7, 0, SYN)]])
        self.assertEqual((len(link.sent), stack.counts['eth fault']), (1, 2))

    def test_events_of_a_turn(self):
        """Observers that listen are told of the events; a bug of one is counted, not more."""
        stack, seen = make_stack(host=masscanned.Host()), Recorder()
        broken = Recorder()
        broken.event = unittest.mock.Mock(side_effect=KeyError('bug'))
        self.run_loop(stack, [[udp(DNS_QUERY)]], broken, seen)
        self.assertEqual([each[:2] for each in seen.seen][1:], [('event', 'answer')])
        self.assertEqual((seen.seen[-1][2]['protocol'], len(stack.faults)), ('dns', 1))
        silent = make_stack(host=masscanned.Host())
        self.run_loop(silent, [[udp(DNS_QUERY)]], masscanned.Observer())
        self.assertIsNone(silent.host.events)

    def test_sleep(self):
        """It sleeps until the first thing is due, and flushes what is."""
        for dues, left in (([None], 1000), ([NOW + 0.2, None], 200), ([NOW + 9], 1000),
                           ([NOW], 0), ([NOW - 5, NOW + 1], 0), ([NOW + 0.25, NOW + 0.125], 126)):
            self.assertIn(masscanned.left_ms(dues, NOW) - left, (0, 1), dues)
        stack, seen = make_stack(), Recorder()
        stack.next_due = lambda: time.time() + 0.1
        self.assertLessEqual(self.run_loop(stack, [[]], seen).waits[0], 101)
        flushed = []
        seen.due, seen.flush = time.time() - 1, flushed.append
        stack.next_due = lambda: None
        self.assertEqual(self.run_loop(stack, [[]], seen).waits[0], 0)
        self.assertEqual(len(flushed), 2)
        seen.due = time.time() + 60
        self.run_loop(stack, [[]], seen)
        self.assertEqual(len(flushed), 2)


class RawPeer:
    """A raw peer on an interface: whole frames out, what comes in, with its VLAN tags."""

    def __init__(self, case, namespace, name, mac=THIRD_MAC):
        with entered(namespace):
            self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.sock.setsockopt(263, 8, 1)         # PACKET_AUXDATA
        self.sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 23)    # SO_RCVBUFFORCE
        self.sock.bind((name, 3))
        self.mac = mac
        case.addCleanup(self.sock.close)

    def send(self, packet, to=FAR_MAC, tag=b'', kind=None):
        """A packet of layer 3, or with kind of any EtherType -> the frame sent."""
        kind = kind or {4: 0x800, 6: 0x86dd}[packet[0] >> 4]
        frame = to + self.mac + tag + kind.to_bytes(2, 'big') + packet
        self.sock.send(frame)
        return frame

    def frames(self, seconds, both=False):
        """Frames that come (or with both pass) from now on, as long as so many seconds."""
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            if left <= 0 or not select.select((self.sock,), (), (), left)[0]:
                return
            frame, extra, _, address = self.sock.recvmsg(1 << 17, 256)
            if address[2] == 4 and not both:    # PACKET_OUTGOING
                continue
            status, _, _, _, _, tci, tpid = struct.unpack('=IIIHHHH', extra[0][2])
            if status & 16:
                frame = frame[:12] + struct.pack('!HH', tpid or 0x8100, tci) + frame[12:]
            yield frame

    def ask(self, packet, seconds=2, **options):
        """Send -> the first frame that comes back to our MAC, or None."""
        sent = self.send(packet, **options)
        for frame in self.frames(seconds):
            if frame[:6] == sent[6:12]:
                return frame
        return None


def plain_frames(name):
    """Have the kernel finish checksums and cut segments itself on an interface of this namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for command in 0x17, 0x1f, 0x24:        # linux/ethtool.h: ETHTOOL_STXCSUM, _STSO, _SGSO
            value = ctypes.create_string_buffer(struct.pack('=II', command, 0), 8)
            request = struct.pack('16sP', name.encode(), ctypes.addressof(value))
            fcntl.ioctl(sock, 0x8946, request.ljust(40, b'\0'))         # SIOCETHTOOL


class Relay(threading.Thread):
    """Frames from one interface of a namespace to the other and back; some are lost, some late.

    lose, delay shares of the frames of each direction: {direction: (lose, delay)}, 0 there, 1 back
    resets      RSTs that passed
    """

    def __init__(self, namespace, names, shares, seed):
        threading.Thread.__init__(self, daemon=True)
        self.shares, self.draw, self.resets, self.done = shares, random.Random(seed), 0, False
        with entered(namespace):
            self.socks = [socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
                          for _ in names]
        for sock, name in zip(self.socks, names):
            sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 23)             # SO_RCVBUFFORCE
            sock.bind((name, 3))
        self.start()

    def run(self):
        late = []                               # (when, number, to, frame)
        for number in itertools.count():
            ready, _, _ = select.select(self.socks, (), (), 0.002)
            for sock in ready:
                frame, address = sock.recvfrom(65536)
                if address[2] == 4:             # PACKET_OUTGOING: we sent it
                    continue
                way = self.socks.index(sock)
                lose, delay = self.shares.get(way, (0, 0))
                chance = self.draw.random()
                if frame[12:14] == b'\x08\0' and frame[23] == 6 and frame[47] & RST:
                    self.resets += 1
                if chance < lose:
                    continue
                wait = self.draw.uniform(0.002, 0.02) if chance < lose + delay else 0
                heapq.heappush(late, (time.monotonic() + wait, number, 1 - way, frame))
                number += 1
            while late and late[0][0] <= time.monotonic():
                _, _, to, frame = heapq.heappop(late)
                self.socks[to].send(frame)
            if self.done:
                return

    def end(self):
        self.done = True
        self.join(5)
        for sock in self.socks:
            sock.close()


class Running:
    """masscanned.py at work; its streams are files."""

    def __init__(self, owner, namespace, *args, code=None, redirect='', ready=True, **options):
        """code: Python that changes `masscanned` before it starts."""
        self.streams = [tempfile.TemporaryFile() for _ in range(2)]
        command = tool('masscanned.py', *args) if code is None else [
            sys.executable, '-c', 'import sys; sys.path.insert(0, %r); import masscanned\n%s\n'
            'sys.exit(masscanned.main())' % (HERE, code)] + [str(arg) for arg in args]
        if redirect:
            command = ['/bin/sh', '-c', 'exec "$0" "$@" ' + redirect] + command
        options.setdefault('stdout', self.streams[0])
        self.process = subprocess.Popen(
            ['ip', 'netns', 'exec', namespace] + command, stdin=subprocess.DEVNULL,
            stderr=self.streams[1], env=CLEAN, **options)
        self.pid = self.process.pid
        owner.addCleanup(self.close)
        if ready:
            self.ready()

    def ready(self):
        """Wait for the last line of its start -> itself."""
        wait_until(lambda: 'answering on' in self.err() or self.process.poll() is not None)
        if self.process.poll() is not None:
            raise AssertionError('ended at its start: ' + self.err())
        return self

    def text(self, number):
        return os.pread(self.streams[number].fileno(), 1 << 26, 0).decode()

    def out(self):
        return self.text(0)

    def err(self):
        return self.text(1)

    def end(self, number=signal.SIGTERM, seconds=10):
        """A signal -> exit status."""
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def counts(self):
        """The counters it left -> (frames, answers)."""
        return tuple(map(int, re.search(r'(\d+) frames, (\d+) answers', self.err()).groups()))

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for stream in self.streams:
            stream.close()


CLEAN = {'PATH': os.environ.get('PATH', '') + ':/usr/sbin:/sbin:/usr/bin:/bin', 'HOME': '/tmp',
         'LC_ALL': 'C', 'TZ': 'UTC', 'PYTHONDONTWRITEBYTECODE': '1'}


class ClassCleanups:
    """addCleanup for what lives as long as a test class (Python 3.8 has it built in)."""

    def __init__(self):
        self.stack = contextlib.ExitStack()
        self.addCleanup = self.stack.callback


class Responder(Case):
    """masscanned.py and real clients: two namespaces, one veth pair, as root.

    near    v0: 10.88.0.1/24 and fd88::1/112, the clients
    far     v1, without an address: the responders, each for addresses of its own;
            the shared one has 10.88.0.16-127 and fd88::10-7f
    """

    SHARED = '10.88.0.16-10.88.0.127,fd88::10-fd88::7f'

    @classmethod
    def setUpClass(cls):
        if not can_make_namespaces():
            if REQUIRED:
                raise AssertionError('LIVE=required: needs root and `ip netns`')
            raise unittest.SkipTest('needs root and `ip netns`')
        cls.life = ClassCleanups()
        cls.near, cls.far, cls.alone = ('responder-%d-%s' % (os.getpid(), name)
                                        for name in ('near', 'far', 'alone'))
        try:
            for name in (cls.near, cls.far, cls.alone):
                cls.ip('netns', 'add', name)
                cls.life.addCleanup(subprocess.call, ['ip', 'netns', 'del', name])
                cls.ip('-n', name, 'link', 'set', 'lo', 'up')
            cls.make_pair('v')
            cls.ip('-n', cls.near, 'addr', 'add', '10.88.0.1/24', 'dev', 'v0')
            cls.ip('-n', cls.near, 'addr', 'add', 'fd88::1/112', 'dev', 'v0', 'nodad')
            cls.shared = Running(cls.life, cls.far, '-i', 'v1', '--self-ip-list', cls.SHARED)
        except BaseException:
            cls.life.stack.close()
            raise

    @classmethod
    def tearDownClass(cls):
        try:
            status, words = cls.shared.end(), cls.shared.err()
        finally:
            cls.life.stack.close()
        if status or 'fault' in words:
            raise AssertionError('the shared responder: exit %d, %s' % (status, words))

    @staticmethod
    def ip(*words):
        subprocess.check_call(('ip',) + words)

    @classmethod
    def make_pair(cls, letter, mtu='1500'):
        """Both ends of a veth pair, up: 'w' -> w0 near, w1 far."""
        ends = letter + '0', letter + '1'
        cls.ip('-n', cls.near, 'link', 'add', ends[0], 'mtu', mtu, 'address', mac_text(NEAR_MAC),
               'type', 'veth', 'peer', 'name', ends[1], 'mtu', mtu, 'address', mac_text(FAR_MAC),
               'netns', cls.far)
        for name, end in zip((cls.near, cls.far), ends):
            cls.ip('-n', name, 'link', 'set', end, 'up')

    def start(self, own, *args, namespace=None, **options):
        """masscanned.py on v1 for a list of its own -> Running."""
        return Running(self, namespace or self.far, '-i', 'v1', '--self-ip-list', own, *args,
                       **options)

    def wire(self, namespace=None, name='v0', mac=THIRD_MAC):
        return RawPeer(self, namespace or self.near, name, mac)

    def client(self, *command, namespace=None, **options):
        """Start a client in the near namespace -> Popen, its streams together."""
        if not shutil.which(command[0], path=CLEAN['PATH']):
            if REQUIRED:
                self.fail('LIVE=required: needs ' + command[0])
            self.skipTest('needs ' + command[0])
        process = subprocess.Popen(
            ('ip', 'netns', 'exec', namespace or self.near) + command, env=CLEAN,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def output(self, *command, **options):
        """A client's last words -> (status, text)."""
        process = self.client(*command, **options)
        with killed_after(process, 20):
            text = process.stdout.read().decode('utf-8', 'replace')
        return process.wait(), text

    def assert_answers(self, address, wire=None, **options):
        """A ping by hand is answered -> the frame."""
        answer = (wire or self.wire()).ask(
            ip_packet('10.88.0.9', address, 1, echo(1)), **options)
        self.assertIsNotNone(answer, 'no answer from ' + address)
        self.assertEqual(answer[-16:], b'\0\0' + struct.pack(
            '!HHH', inet_sum(echo(1)[4:]), 0x8888, 1) + b'abcdefgh')
        return answer

    # Clients: name, command, exit status (None: ended as soon as the output matches), output
    CLIENTS = [
        ('ping', 'ping -n -c 3 -i 0.1 10.88.0.20', 0, r'3 received, 0% packet loss'),
        ('ping of 1,400', 'ping -n -c 1 -s 1400 10.88.0.20', 0, r'1408 bytes from 10\.88\.0\.20'),
        ('ping6', 'ping -6 -n -c 2 -i 0.1 fd88::20', 0, r'2 received, 0% packet loss'),
        ('ping6 of 1,400', 'ping -6 -n -c 1 -s 1400 fd88::21', 0, r'1408 bytes from fd88::21'),
        ('arping', 'arping -f -w 5 -I v0 10.88.0.22', 0,
         r'reply from 10\.88\.0\.22 \[02:00:00:88:00:02\]'),
        ('curl', 'curl -sSi http://10.88.0.23/', 0,
         r'^HTTP/1\.1 401 Unauthorized\r\n.*\nWWW-Authenticate: Basic .*</html>\n$'),
        ('curl over IPv6', 'curl -sSi http://[fd88::23]:8080/', 0, r'^HTTP/1\.1 401 .*</html>'),
        ('curl HEAD', 'curl -sSI http://10.88.0.23:81/', 0,
         r'^HTTP/1\.1 401 [^<]*Content-Length: 188\r\n[^<]*\r\n\r\n$'),
        ('curl POST of 100 kB', 'curl -sS -H Expect: -w _%{{http_code}}_%{{size_upload}}_ '
         '--data-binary @{post} http://10.88.0.24/', 0, r'_401_100000_$'),
        ('curl POST over IPv6', 'curl -sS -w _%{{http_code}}_%{{size_upload}}_ '
         '--data-binary @{post} http://[fd88::24]/', 0, r'_401_100000_$'),
        ('curl POST in chunks', 'curl -sS -H Transfer-Encoding:chunked -w _%{{http_code}}_ '
         '--data-binary @{post} http://10.88.0.24/', 0, r'_401_$'),
        ('curl keep-alive', 'curl -sS -w _%{{http_code}}_%{{num_connects}}_ '
         'http://10.88.0.25/a http://10.88.0.25/b', 0, r'_401_1_.*_401_0_$'),
        ('curl HTTP/1.0', 'curl -sSv -0 http://10.88.0.25/', 0,
         r'< Connection: close.*Closing connection'),
        ('dig', 'dig +tries=2 +time=2 +noedns @10.88.0.26 www.example.org', 0,
         r'status: NOERROR.*\nwww\.example\.org\.\s+\d+\s+IN\s+A\s+10\.88\.0\.26\n'),
        ('dig +edns', 'dig +tries=2 +time=2 +edns=0 @10.88.0.26 www.example.org', 0,
         r'EDNS: version: 0.*\sA\s+10\.88\.0\.26\n'),
        ('dig +tcp', 'dig +tries=2 +time=2 +tcp @10.88.0.26 www.example.org', 0,
         r'\sA\s+10\.88\.0\.26\n.*\(TCP\)'),
        ('dig AAAA', 'dig +tries=2 +time=2 @fd88::26 www.example.org AAAA', 0,
         r'status: NOERROR.*\sIN\s+AAAA\s+fd88::26\n'),
        ('dig AAAA over IPv4', 'dig +tries=2 +time=2 @10.88.0.26 www.example.org AAAA', 0,
         r'status: NOERROR.*ANSWER: 0,'),
        ('dig ANY', 'dig +tries=2 +time=2 +notcp @10.88.0.26 www.example.org ANY', 0,
         r'status: NOERROR.*\sHINFO\s+"RFC8482"'),
        ('dig version.bind', 'dig +tries=2 +time=2 @10.88.0.26 version.bind TXT CH', 0,
         r'status: NOERROR.*ANSWER: 0,'),
        ('host', 'host -W 5 -t A www.example.org 10.88.0.26', 0, r'has address 10\.88\.0\.26'),
        ('ssh', 'ssh -v -F none -o BatchMode=yes -o UserKnownHostsFile=/dev/null 10.88.0.27 true',
         None, r'remote software version 1\r?\n'),
        ('ssh over IPv6', 'ssh -v -F none -o BatchMode=yes fd88::27 true', None,
         r'remote software version 1\r?\n'),
        ('rpcinfo', 'rpcinfo 10.88.0.28', 0, r'100000 +4 +tcp +10\.88\.0\.28\.0\.111 '),
        ('rpcinfo -p', 'rpcinfo -p 10.88.0.28', 0,
         r'100000 +2 +tcp +111 .*100000 +3 +tcp +111 .*100000 +4 +tcp +111 '),
        ('rpcinfo -u', 'rpcinfo -u 10.88.0.28 100000', 0, r'version 4 ready and waiting'),
        ('rpcinfo -t', 'rpcinfo -t 10.88.0.28 100000', 0, r'version 2 ready and waiting'),
        ('stun, RFC 3489', 'stun 10.88.0.29', 1, r'Primary: Open'),
        ('stun, RFC 8489', 'turnutils_stunclient 10.88.0.29', 0,
         r'UDP reflexive addr: 10\.88\.0\.1:\d+'),
        ('stun over IPv6', 'turnutils_stunclient fd88::29', 0,
         r'UDP reflexive addr: (\[?)fd88::1'),
        ('smbclient SMB1', 'smbclient -s /dev/null -U bob%secret --option=clientminprotocol=NT1 '
         '-m NT1 -L //10.88.0.30', 1, r'NT_STATUS_LOGON_FAILURE'),
        ('smbclient SMB1 to SMB2', 'smbclient -s /dev/null -U bob%secret '
         '--option=clientminprotocol=NT1 -L //10.88.0.30', 1, r'NT_STATUS_LOGON_FAILURE'),
        ('smbclient SMB2', 'smbclient -s /dev/null -U bob%secret -m SMB2_02 -L //10.88.0.30', 1,
         r'NT_STATUS_LOGON_FAILURE'),
        ('smbclient SMB3', 'smbclient -s /dev/null -U bob%secret -m SMB3 -L //10.88.0.30', 1,
         r'NT_STATUS_LOGON_FAILURE'),
        ('smbclient SMB 3.1.1', 'smbclient -s /dev/null -U bob%secret '
         '--option=clientminprotocol=SMB3_11 -m SMB3_11 -L //10.88.0.30', 1,
         r'NT_STATUS_LOGON_FAILURE'),
        ('smbclient on 139', 'smbclient -s /dev/null -U bob%secret -p 139 -L //10.88.0.30', 1,
         r'NT_STATUS_LOGON_FAILURE'),
        ('curl ftp', 'curl -sSv -u bob:secret ftp://10.88.0.60/', 67, r'530 Login incorrect'),
        ('curl ftp over IPv6', 'curl -sSv -u bob:secret ftp://[fd88::60]:2121/', 67, r'530 Login'),
        ('curl smtp', 'curl -sSv --mail-from a@b --mail-rcpt c@d -T {post} smtp://10.88.0.60', 55,
         r'220 win-[a-z0-5]+ ESMTP.*554 5\.7\.1 Relay access denied'),
        ('curl smtp login', 'curl -sSv -u bob:secret --mail-from a@b --mail-rcpt c@d -T {post} '
         'smtp://[fd88::60]:587', 67, r'535 5\.7\.8'),
        ('curl imap', 'curl -sSv -u bob:secret imap://10.88.0.60/', 67, r'AUTHENTICATIONFAILED'),
        ('curl imap by LOGIN', 'curl -sSv -u bob:secret --login-options AUTH=+LOGIN '
         'imap://10.88.0.60/', 67, r'LOGIN bob secret.*AUTHENTICATIONFAILED'),
        ('curl pop3', 'curl -sSv -u bob:secret pop3://10.88.0.60/', 67, r'-ERR \[AUTH\]'),
        ('curl dict', 'curl -sS dict://10.88.0.60/d:word', 0, r'\A220 win-.*554 No databases'),
        ('curl gopher', 'curl -sS gopher://10.88.0.60/', 0, r'Nothing here'),
        ('curl rtsp', 'curl -sSi rtsp://10.88.0.60/', 0, r'RTSP/1\.0 200 OK\r\nCSeq: 1\r\nPublic: '),
        ('curl telnet', 'curl -sSN telnet://10.88.0.60', None, r'login: '),
        ('telnet', 'telnet 10.88.0.60', None, r'login: '),
        ('swaks', 'swaks --server 10.88.0.60 --to a@b --auth LOGIN --auth-user bob '
         '--auth-password secret', 28, r'334 UGFzc3dvcmQ6.*535 5\.7\.8'),
        ('git', 'git ls-remote git://10.88.0.60/x', 128, r'access denied'),
        ('rsync', 'rsync rsync://10.88.0.60/', 0, r'\Afiles '),
        ('rsync of a module', 'rsync rsync://10.88.0.60/other', 5, r"Unknown module 'other'"),
        ('svn', 'svn info --non-interactive --no-auth-cache --username bob --password secret '
         'svn://10.88.0.60/r', 1, r'E170001: .*Authorization failed'),
        ('dict', 'dict -h 10.88.0.60 word', 1, r'No databases'),
        ('whois', 'whois -h 10.88.0.60 example.org', 0, r'No match\.'),
        ('finger', 'finger bob@10.88.0.60', 0, r'No such user'),
        ('sipsak', 'sipsak -vv -s sip:100@10.88.0.60', 0, r'SIP/2\.0 200 OK'),
        ('mpc', 'mpc --host=10.88.0.60 status', 1, r"don't have permission"),
        ('rlpr', 'rlpr -N -H 10.88.0.60 -P lp {post}', 0, r''),
        ('nc daytime', 'nc -w 5 10.88.0.60 13', 0, r'\A20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC\r\n\Z'),
        ('nc hddtemp over IPv6', 'nc -w 5 fd88::60 7634', 0, r'\A\|/dev/sda\|DISK\|30\|C\|\Z'),
        # one thread: of several, two draw the same port at times (of 512), and take the other's answer
        ('nmap -sU', 'nmap -n -Pn -sU -sV --script-args rpc-grind.threads=1 -p 111 10.88.0.28', 0,
         r'111/udp open +rpcbind 2-4'),
    ]
    SLOW_CLIENTS = [
        ('nmap -sV', 'nmap -n -Pn -sV --script rpcinfo,nfs-showmount -p 111 10.88.0.28', 0,
         r'111/tcp open +rpcbind 2-4 .*100000 +2,3,4 +111/tcp +rpcbind'),
        ('nmap -sV of many', 'nmap -n -Pn -sV -p 22,53,80,111,445,3478 10.88.0.31', 0,
         r'80/tcp +open +http +nginx 1\.14\.2'),
    ]

    def run_clients(self, clients, seconds):
        """All at once; each has its own subTest and so many seconds."""
        post = self.path('post', b'p' * 100000)
        started = []
        for name, command, status, pattern in clients:
            with self.subTest(name):
                started.append((name, self.client(*command.format(post=post).split(),
                                                  stdin=subprocess.DEVNULL), status, pattern))
        end = time.monotonic() + seconds
        for name, process, status, pattern in started:
            with self.subTest(name):
                text = ''
                with killed_after(process, max(end - time.monotonic(), 0.1)):
                    for data in iter(lambda: os.read(process.stdout.fileno(), 65536), b''):
                        text += data.decode('utf-8', 'replace')
                        if status is None and re.search(pattern, text):
                            process.kill()
                    ended = process.wait()
                self.assertRegex(text, '(?s)' + pattern)
                if status is not None:
                    self.assertEqual(ended, status, text)

    def test_clients(self):
        """Each gets what it came for, all at the same time."""
        self.run_clients(self.CLIENTS, 15)

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1: seconds of nmap')
    def test_slow_clients(self):
        self.run_clients(self.SLOW_CLIENTS, 120)

    def test_octet_by_octet(self):
        """nc sends a request in segments of one octet: one answer, then the connection ends."""
        request = b'GET /octets HTTP/1.0\r\nHost: x\r\n\r\n'
        process = self.client('nc', '-w', '10', '10.88.0.40', '80', stdin=subprocess.PIPE)
        with killed_after(process, 15):
            for octet in request:
                process.stdin.write(bytes((octet,)))
                process.stdin.flush()
                time.sleep(0.005)
            text = b''
            while not text.endswith(b'</html>\n'):
                data = os.read(process.stdout.fileno(), 65536)
                if not data:
                    break
                text += data
            process.stdin.close()
            text += process.stdout.read()
        self.assertEqual(text.count(b'HTTP/1.1 401 Unauthorized\r\n'), 1)
        self.assertTrue(text.endswith(b'</html>\n'), text)

        def pieces():
            return re.findall(r'\ttcp\trecv\t24\t.*\t10\.88\.0\.40\t80\t', self.shared.out())
        wait_until(lambda: len(pieces()) > len(request) // 2)

    def test_idle_ping(self):
        """A responder with nothing to do answers at once."""
        wire, times = self.wire(), []
        for _ in range(20):
            time.sleep(0.01)
            before = time.monotonic()
            self.assert_answers('10.88.0.51', wire)
            times.append(time.monotonic() - before)
        self.assertLess(min(times), 0.001)
        self.assertLess(sorted(times)[10], 0.01)

    def test_interface_down_and_gone(self):
        """Down: told once, waited for; up: on it goes; deleted: one line and exit 1."""
        self.make_pair('w')
        runs = [Running(self, self.far, '-i', 'w1', '--self-ip-list', own, '-q', *more)
                for own, more in (('10.88.0.131', ()), ('10.88.0.132', ('--workers', 2)),
                                  ('10.88.0.133', ()))]
        wire = self.wire(name='w0')
        own = ['10.88.0.131', '10.88.0.132', '10.88.0.133']
        for address in own:
            self.assert_answers(address, wire)
        self.ip('-n', self.far, 'link', 'set', 'w1', 'down')
        for each in runs:
            wait_until(lambda: 'w1 is down: waiting for it' in each.err())
        self.assertEqual(runs.pop().end(), 0)               # also while it waits
        self.ip('-n', self.far, 'link', 'set', 'w1', 'up')
        for each in runs:
            wait_until(lambda: 'w1 is up again' in each.err())
        for address in own[:2]:
            wait_until(lambda: wire.ask(ip_packet('10.88.0.9', address, 1, echo(1)), 0.2))
        self.ip('-n', self.far, 'link', 'del', 'w1')
        for number, each in enumerate(runs):
            with self.subTest(workers=number + 1):
                self.assertEqual(each.process.wait(10), 1)
                words = [line.split(': ', 1)[1] for line in each.err().splitlines()]
                self.assertEqual(words[1:], ['w1 is down: waiting for it', 'w1 is up again',
                                             'w1 is gone'])

    def pair(self, letter):
        """A veth pair of its own, as make_pair(), gone after the test."""
        self.make_pair(letter)
        self.addCleanup(subprocess.call, ['ip', '-n', self.near, 'link', 'del', letter + '0'],
                        stderr=subprocess.DEVNULL)

    def news(self, wire, seconds, most):
        """Unasked frames that come in a time, at most so many -> [(what, address)]."""
        told = []
        for frame in wire.frames(seconds):
            kind, what, address = frame[12:14], None, None
            if kind == b'\x08\x06' and frame[20:22] == b'\0\1' and frame[6:12] != THIRD_MAC:
                address = frame[38:42]
                what = {bytes(4): 'probe', address: 'news'}.get(frame[28:32])
            elif kind == b'\x86\xdd' and frame[54] in (135, 136) and frame[6:12] == FAR_MAC:
                address = frame[62:78]
                what = 'probe' if frame[54] == 135 and frame[22:38] == bytes(16) else 'news'
            if what and not address.startswith(b'\xfe\x80'):      # the kernel's own
                told.append((what, masscanned.ip_text(address)))
            if len(told) == most:
                break
        return told

    def test_announce(self):
        """Own addresses are tried out, then told, at the start and after link-up; or not at all."""
        self.pair('a')
        wire = self.wire(name='a0')
        wanted = [(what, each) for what in ('probe',) * 3 + ('news',) * 2
                  for each in ('10.88.9.7', 'fd88:9::7')]
        each = Running(self, self.far, '-i', 'a1', '--self-ip-list', '10.88.9.7,fd88:9::7', '-q')
        before = time.monotonic()
        self.assertEqual(self.news(wire, 9, 10), wanted)
        self.assertGreater(time.monotonic() - before, 5)
        self.ip('-n', self.far, 'link', 'set', 'a1', 'down')
        self.ip('-n', self.far, 'link', 'set', 'a1', 'up')
        self.assertEqual(self.news(wire, 4, 2), wanted[:2])
        self.assert_answers('10.88.9.7', wire)                  # meanwhile
        self.news(wire, 0.3, 99)
        self.ip('-n', self.near, 'link', 'set', 'a0', 'down')   # the cable
        time.sleep(1.5)
        self.ip('-n', self.near, 'link', 'set', 'a0', 'up')
        wire = self.wire(name='a0')
        self.assertEqual(self.news(wire, 4, 2), wanted[:2])
        self.assertEqual(each.end(), 0)
        self.assertGreater(int(re.search(r', (\d+) sent unasked', each.err()).group(1)), 13)
        quiet = [Running(self, self.far, '-i', 'a1', '-q', *more) for more in (
            ('--self-ip-list', '10.88.9.7,fd88:9::7', '--no-announce'), ())]
        self.assertEqual(self.news(wire, 1.5, 1), [])
        for each in quiet:
            self.assertEqual(each.end(), 0)
            self.assertNotIn('unasked', each.err())

    def test_announce_taken(self):
        """What somebody else answers for is told and not announced, whichever worker hears it."""
        self.pair('b')
        self.ip('-n', self.near, 'addr', 'add', '10.88.10.8/24', 'dev', 'b0')
        self.ip('-n', self.near, 'addr', 'add', 'fd88:10::8/64', 'dev', 'b0', 'nodad')
        wire = self.wire(name='b0')
        each = Running(self, self.far, '-i', 'b1', '-q', '--workers', 3, '--self-ip-list',
                       '10.88.10.7-10.88.10.8,fd88:10::7-fd88:10::8')
        told = collections.Counter(self.news(wire, 7.5, 99))
        self.assertEqual({address for what, address in told if what == 'news'},
                         {'10.88.10.7', 'fd88:10::7'})
        self.assertEqual({address for what, address in told if what == 'probe'},
                         {'10.88.10.7', 'fd88:10::7', '10.88.10.8', 'fd88:10::8'})
        self.assertEqual(told['probe', '10.88.10.7'], 3)        # one of the workers sends
        self.assertEqual(each.end(), 0)
        lines = sorted(line for line in each.err().splitlines() if 'has it, too' in line)
        self.assertEqual(lines, ['masscanned: %s: %s has it, too: not announced' % (
            address, mac_text(NEAR_MAC)) for address in ('10.88.10.8', 'fd88:10::8')])

    def test_another_mac(self):
        """Neighbours that remember the MAC of before hear of the new one before they forget."""
        self.pair('m')
        self.ip('-n', self.near, 'addr', 'add', '10.88.11.1/24', 'dev', 'm0')
        neighbour = '10.88.11.7'
        self.ip('-n', self.near, 'neigh', 'add', neighbour, 'dev', 'm0', 'lladdr',
                mac_text(OTHER_MAC), 'nud', 'stale')
        each = Running(self, self.far, '-i', 'm1', '-q', '--self-ip-list', neighbour)

        def known():
            return subprocess.check_output(['ip', '-n', self.near, 'neigh', 'show', neighbour,
                                            'dev', 'm0']).decode()
        self.assertIn(mac_text(OTHER_MAC), known())
        wait_until(lambda: mac_text(FAR_MAC) in known(), 8)
        self.assertEqual(each.end(), 0)

    def groups(self, name):
        """The solicited-node groups that an interface of the far namespace is in."""
        with entered(self.far):
            text = read_text('/proc/thread-self/net/igmp6')
        return set(re.findall(r'^\d+\s+%s\s+(ff0200000000000000000001ff\w{6}) ' % name, text, re.M))

    def test_groups(self):
        """The kernel is in the groups of our addresses; where IPv6 is off, or beyond 4,096: told."""
        self.pair('g')
        each = Running(self, self.far, '-i', 'g1', '-q', '--self-ip-list',
                       'fd88:11::7,fd88:12::7,fd88:11::aa:bbcc,10.88.0.5')
        wanted = {'ff0200000000000000000001ff' + low for low in ('000007', 'aabbcc')}
        wait_until(lambda: wanted <= self.groups('g1'))
        self.assertEqual(each.end(), 0)
        self.assertFalse(wanted & self.groups('g1'))
        each = Running(self, self.far, '-i', 'g1', '-q', '--self-ip-list', 'fd88:11::/64')
        wait_until(lambda: len(self.groups('g1')) >= 4096)
        self.assertEqual(each.end(), 0)
        self.assertRegex(each.err(), r'g1: 4096 of 16777216 multicast groups are joined: behind a')
        with entered(self.far):
            with open('/proc/sys/net/ipv6/conf/g1/disable_ipv6', 'w') as file:
                file.write('1')
        each = Running(self, self.far, '-i', 'g1', '-q', '--self-ip-list', 'fd88:11::7')
        wait_until(lambda: 'IPv6 is off there' in each.err())
        self.assertEqual(each.end(), 0)
        each = Running(self, self.far, '-i', 'g1', '-q', '--self-ip-list', '10.88.0.5')
        self.assertEqual(each.end(), 0)
        self.assertNotIn('IPv6', each.err())

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1: a minute')
    def test_snooping_bridge(self):
        """Behind a bridge that snoops MLD and asks: found after 50 s, and after link-up."""
        bridge = 'responder-%d-bridge' % os.getpid()
        self.ip('netns', 'add', bridge)
        self.addCleanup(subprocess.call, ['ip', 'netns', 'del', bridge])
        self.ip('-n', bridge, 'link', 'add', 'br0', 'type', 'bridge', 'mcast_snooping', '1',
                'mcast_querier', '1')
        self.ip('-n', bridge, 'link', 'set', 'br0', 'up')
        for namespace in self.near, self.far:
            port = 'p-' + namespace[-4:]
            self.ip('-n', bridge, 'link', 'add', port, 'type', 'veth', 'peer', 'name', 's0',
                    'netns', namespace)
            self.ip('-n', bridge, 'link', 'set', port, 'master', 'br0', 'up')
            self.ip('-n', namespace, 'link', 'set', 's0', 'up')
        self.ip('-n', self.near, 'addr', 'add', 'fd88:13::1/64', 'dev', 's0', 'nodad')
        runs = [Running(self, self.far, '-i', 's0', '-q', '--no-announce', '--self-ip-list', own,
                        code=code) for own, code in (
                            ('fd88:13::7-fd88:13::9', ''),
                            ('fd88:13::1:7', 'masscanned.Groups.join = lambda *_: ""'))]

        def found(address):
            return self.output('ping', '-6', '-n', '-c', '1', '-W', '3', address)[0] == 0
        time.sleep(50)
        self.assertTrue(found('fd88:13::7'))
        self.assertFalse(found('fd88:13::1:7'), 'this bridge does not snoop')
        self.ip('-n', self.far, 'link', 'set', 's0', 'down')
        wait_until(lambda: 's0 is down' in runs[0].err())
        self.ip('-n', self.far, 'link', 'set', 's0', 'up')
        wait_until(lambda: 's0 is up again' in runs[0].err())
        wait_until(lambda: found('fd88:13::8'))
        for each in runs:
            self.assertEqual(each.end(), 0)

    def open_tun(self, name):
        """A tun device of the far namespace, up -> the descriptor of its other side."""
        with entered(self.far):
            fd = os.open('/dev/net/tun', os.O_RDWR)
            self.addCleanup(os.close, fd)
            fcntl.ioctl(fd, 0x400454ca, struct.pack('16sH22x', name.encode(), 0x1001))
        self.ip('-n', self.far, 'link', 'set', name, 'up')
        return fd

    @unittest.skipUnless(os.path.exists('/dev/net/tun') or REQUIRED, 'needs /dev/net/tun')
    def test_tun(self):
        """An interface without Ethernet: packets in, packets out, both versions, no neighbours."""
        fd = self.open_tun('t1')
        runs = [Running(self, self.far, '-i', 't1', '--self-ip-list', own, *more) for own, more in (
            ('10.88.12.7,fd88:12::7', ()), ('10.88.12.8,fd88:12::8', ('-q', '--workers', 2)))]
        self.assertIn("answering on t1 (no Ethernet) for 10.88.12.7", runs[0].err())

        def answer(packet, seconds=3):
            os.write(fd, packet)
            end = time.monotonic() + seconds
            while select.select((fd,), (), (), max(end - time.monotonic(), 0))[0]:
                got = os.read(fd, 65536)
                if got[0] >> 4 == packet[0] >> 4 and (got[:1] == b'E' or got[8:10] != b'\xfe\x80'):
                    return got
            return None
        for last in '7', '8':
            own, own6 = '10.88.12.' + last, 'fd88:12::' + last
            got = answer(ip_packet('10.88.12.1', own, 1, echo(1)))
            self.assertEqual((got[12:20], got[20:22]), (
                live_packed(own) + live_packed('10.88.12.1'), b'\0\0'))
            got = answer(ip_packet('fd88:12::1', own6, 58, echo(1, kind=128)))
            self.assertEqual((got[8:40], got[40:42]), (
                live_packed(own6) + live_packed('fd88:12::1'), b'\x81\0'))
            for port in range(4000, 4020):                  # each of the workers has some
                got = answer(ip_packet('10.88.12.1', own, 6, live_tcp(port, 80, 1, 0, 2)))
                self.assertEqual((got[22:24], got[33]), (port.to_bytes(2, 'big'), 18))
            got = answer(ip_packet('fd88:12::1', own6, 17, live_udp(4001, 53, DNS_QUERY)))
            self.assertEqual(got[40:44], struct.pack('!HH', 53, 4001))
        target = live_packed('fd88:12::7')
        ask = bytes((135, 0, 0, 0)) + bytes(4) + target
        packet = ip_packet('fd88:12::1', 'fd88:12::7', 58, ask)
        self.assertIsNone(answer(packet[:7] + b'\xff' + packet[8:], 0.3))
        for each in runs:
            self.assertEqual(each.end(), 0)
            self.assertNotIn('fault', each.err())
            self.assertNotIn('unasked', each.err())
        self.assertIn('\ttcp\trecv\t2\t00:00:00:00:00:00\t10.88.12.1\t4000\t', runs[0].out())
        each = Running(self, self.far, '-i', 't1', '-m', '02:00:00:00:00:07', ready=False)
        self.assertEqual(each.process.wait(10), 1)
        self.assertIn("--mac-addr: 't1' has no MAC addresses", each.err())

    def test_mtu(self):
        """Another MTU is noticed: the MSS, and the room for datagrams; told once."""
        self.pair('u')
        wire = self.wire(name='u0')
        each = Running(self, self.far, '-i', 'u1', '--self-ip-list', '10.88.13.7', '-q',
                       '--workers', 2)
        syn = [ip_packet('10.88.13.1', '10.88.13.7', 6, live_tcp(port, 80, 1, 0, 2))
               for port in range(4000, 4012)]

        def sizes():
            return {struct.unpack('!H', wire.ask(each)[56:58])[0] for each in syn}
        self.assertEqual(sizes(), {1460})
        for mtu in 1300, 9000:
            for namespace, name in (self.near, 'u0'), (self.far, 'u1'):
                self.ip('-n', namespace, 'link', 'set', name, 'mtu', str(mtu))
            wait_until(lambda: 'u1: MTU %d' % mtu in each.err())
            wait_until(lambda: sizes() == {mtu - 40})
        self.assertEqual(each.end(), 0)
        self.assertEqual(each.err().count(': MTU '), 2)

    def test_broadcast(self):
        """With a list that covers its network: silence at both of its ends, told at the start."""
        self.pair('c')
        self.ip('-n', self.far, 'addr', 'add', '10.88.14.1/28', 'dev', 'c1')
        wire = self.wire(name='c0')
        each = Running(self, self.far, '-i', 'c1', '--self-ip-list', '10.88.14.0/28', '-q')
        wait_until(lambda: 'network or broadcast' in each.err())
        self.assertIn('10.88.14.0, 10.88.14.15: network or broadcast address of c1: not answered',
                      each.err())
        for last in 0, 15:
            own = '10.88.14.%d' % last
            for to in FAR_MAC, b'\xff' * 6:
                for packet in (ip_packet('10.88.14.40', own, 1, echo(1)),
                               ip_packet('10.88.14.40', own, 6, live_tcp(4000, 80, 1, 0, 2))):
                    wire.send(packet, to=to)
            wire.send(arp_request(THIRD_MAC, '10.88.14.40', own), kind=0x806, to=b'\xff' * 6)
            answer = self.assert_answers('10.88.14.14', wire)   # the first that comes
            self.assertEqual(answer[26:30], live_packed('10.88.14.14'))
        self.assertEqual(each.end(), 0)
        self.assertEqual(each.counts()[1], 2)
        self.assertIn('8 ipv4 multicast', each.err())

    def test_signals(self):
        """SIGTERM, SIGINT: exit 0, counters on standard error, the whole log written."""
        runs = [self.start('10.88.0.14%d' % number) for number in range(2)]
        wire = self.wire()
        for number, (each, name) in enumerate(zip(runs, ('SIGTERM', 'SIGINT'))):
            with self.subTest(name):
                own = '10.88.0.14%d' % number
                for _ in range(3):
                    self.assert_answers(own, wire)
                before = time.monotonic()
                self.assertEqual(each.end(getattr(signal, name)), 0)
                self.assertLess(time.monotonic() - before, 2)
                lines = each.err().splitlines()
                self.assertEqual(len(lines), 2)
                self.assertRegex(lines[1], r'^masscanned: \d+ frames, 3 answers')
                self.assertEqual(each.out().count('\ticmpv4\tsend\t'), 3)
                self.assertTrue(each.out().endswith('\n'))

    def test_log_reader_gone(self):
        """Standard output fails: one line says so, and the answers go on."""
        pipe, end = os.pipe()
        os.close(pipe)
        full = os.open('/dev/full', os.O_WRONLY)
        runs = [('10.88.0.142', 'Broken pipe', self.start('10.88.0.142', stdout=end)),
                ('10.88.0.143', 'No space left', self.start('10.88.0.143', stdout=full)),
                ('10.88.0.144', 'Bad file desc', self.start('10.88.0.144', redirect='>&-'))]
        os.close(end)
        os.close(full)
        wire = self.wire()
        for own, words, each in runs:
            with self.subTest(words):
                self.assert_answers(own, wire)
                wait_until(lambda: 'standard output' in each.err())
                for _ in range(5):
                    self.assert_answers(own, wire)
                self.assertEqual(each.end(), 0)
                lines = each.err().splitlines()
                self.assertEqual([bool(re.search(words, line)) for line in lines],
                                 [False, True, False])
                self.assertGreaterEqual(each.counts()[1], 6)

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_log_reader_stalled(self):
        """Nobody reads standard output, and it is full: a signal ends it all the same."""
        pipe, end = os.pipe()
        self.addCleanup(os.close, pipe)
        fcntl.fcntl(end, 1031, 4096)                        # F_SETPIPE_SZ
        each = self.start('10.88.0.148', stdout=end)
        os.close(end)
        wire = self.wire()
        for _ in range(64):
            wire.send(ip_packet('10.88.0.9', '10.88.0.148', 1, echo(1)))
        wait_until(lambda: read_text('/proc/%d/wchan' % each.pid).strip().endswith('pipe_write')
                   or select.select((pipe,), (), (), 0)[0])
        time.sleep(0.3)                                     # the rest of it is due
        self.assertEqual(each.end(seconds=4), 0)
        self.assertIn('frames', each.err())

    def test_closed_streams(self):
        """Whatever is closed at the start: no text goes out as a frame, and it answers."""
        wire = self.wire(mac=OTHER_MAC)
        closed = ['>&-', '2>&-', '<&- >&- 2>&-']
        runs = [self.start('10.88.0.%d' % (145 + number), '-vvv', redirect=redirect, ready=False)
                for number, redirect in enumerate(closed)]
        for number, (each, redirect) in enumerate(zip(runs, closed)):
            with self.subTest(redirect):
                own = '10.88.0.%d' % (145 + number)
                wait_until(lambda: each.process.poll() is not None
                           or wire.ask(ip_packet('10.88.0.9', own, 1, echo(1)), 0.05))
                self.assert_answers(own, wire, seconds=1)
                self.assertEqual(each.end(), 0)
        for frame in wire.frames(0.05):
            self.assertIn(frame[12:14], (b'\x08\0', b'\x08\x06', b'\x86\xdd'))
            for word in (b'init', b'recv', b'masscanned', b'frames'):
                self.assertNotIn(word, frame)

    # The packet log: what is sent, in rounds; lines without time stamp.  {own} and {own6} are
    # the responder's, C and R the MACs, {seq} the number of our SYN+ACK.
    LOG = [
        ('arp', '''
            eth recv Arp C ff:ff:ff:ff:ff:ff
            arp recv ArpOperation(1) C 10.88.0.9 00:00:00:00:00:00 {own}
            arp send ArpOperation(2) C 10.88.0.9 R {own}
            eth send Arp C R''', '''
            eth recv mac_src=C mac_dst=ff:ff:ff:ff:ff:ff eth_type=Arp
            arp recv mac_src=C mac_dst=00:00:00:00:00:00 ip_src=10.88.0.9 ip_dst={own} \
op=ArpOperation(1)
            arp send mac_dst=C mac_src=R ip_dst=10.88.0.9 ip_src={own} op=ArpOperation(2)
            eth send mac_src=C mac_dst=R eth_type=Arp'''),
        ('ping', '''
            eth recv Ipv4 C R
            ipv4 recv Icmp C 10.88.0.9 R {own}
            icmpv4 recv 8/0 C 10.88.0.9 - R {own} -
            icmpv4 send 0/0 C 10.88.0.9 - R {own} -
            ipv4 send Icmp C 10.88.0.9 R {own}
            eth send Ipv4 C R''', '''
            eth recv mac_src=C mac_dst=R eth_type=Ipv4
            ipv4 recv mac_src=C mac_dst=R ip_src=10.88.0.9 ip_dst={own} next_proto=Icmp
            icmpv4 recv mac_src=C mac_dst=R ip_src=10.88.0.9 ip_dst={own} transport=Icmp \
icmp_type=IcmpType(8) icmp_code=IcmpCode(0)
            icmpv4 send mac_src=C mac_dst=R ip_src=10.88.0.9 ip_dst={own} transport=Icmp \
icmp_type=IcmpType(0) icmp_code=IcmpCode(0)
            ipv4 send mac_src=C mac_dst=R ip_src=10.88.0.9 ip_dst={own} transport=Icmp \
next_proto=Icmp
            eth send mac_src=C mac_dst=R ip_src=10.88.0.9 ip_dst={own} transport=Icmp \
eth_type=Ipv4'''),
        ('ping6', '''
            eth recv Ipv6 C R
            ipv6 recv Icmpv6 C fd88::9 R {own6}
            icmpv6 recv 128/0 C fd88::9 - R {own6} -
            icmpv6 send 129/0 C fd88::9 - R {own6} -
            ipv6 send Icmpv6 C fd88::9 R {own6}
            eth send Ipv6 C R''', '''
            eth recv mac_src=C mac_dst=R eth_type=Ipv6
            ipv6 recv mac_src=C mac_dst=R ip_src=fd88::9 ip_dst={own6} next_proto=Icmpv6
            icmpv6 recv mac_src=C mac_dst=R ip_src=fd88::9 ip_dst={own6} transport=Icmpv6 \
icmpv6_type=Icmpv6Type(128) icmpv6_code=Icmpv6Code(0)
            icmpv6 send mac_src=C mac_dst=R ip_src=fd88::9 ip_dst={own6} transport=Icmpv6 \
icmpv6_type=Icmpv6Type(129) icmpv6_code=Icmpv6Code(0)
            ipv6 send mac_src=C mac_dst=R ip_src=fd88::9 ip_dst={own6} transport=Icmpv6 \
next_proto=Icmpv6
            eth send mac_src=C mac_dst=R ip_src=fd88::9 ip_dst={own6} transport=Icmpv6 \
eth_type=Ipv6'''),
        ('syn', '''
            eth recv Ipv4 C R
            ipv4 recv Tcp C 10.88.0.9 R {own}
            tcp recv 2 C 10.88.0.9 4001 R {own} 80 1000 0
            tcp send 18 C 10.88.0.9 4001 R {own} 80 {seq} 1001
            ipv4 send Tcp C 10.88.0.9 R {own}
            eth send Ipv4 C R''', '''
            eth recv mac_src=C mac_dst=R eth_type=Ipv4
            ipv4 recv mac_src=C mac_dst=R ip_src=10.88.0.9 ip_dst={own} next_proto=Tcp
            tcp recv mac_src=C mac_dst=R ip_src=10.88.0.9 ip_dst={own} transport=Tcp \
port_src=4001 port_dst=80 flags=2 seq=1000 ack=0
            tcp send mac_src=C mac_dst=R ip_src=10.88.0.9 ip_dst={own} transport=Tcp \
port_src=4001 port_dst=80 flags=18 seq={seq} ack=1001
            ipv4 send mac_src=C mac_dst=R ip_src=10.88.0.9 ip_dst={own} transport=Tcp \
port_src=4001 port_dst=80 next_proto=Tcp
            eth send mac_src=C mac_dst=R ip_src=10.88.0.9 ip_dst={own} transport=Tcp \
port_src=4001 port_dst=80 eth_type=Ipv4'''),
        ('dns', '''
            eth recv Ipv4 C R
            ipv4 recv Udp C 10.88.0.9 R {own}
            udp recv - C 10.88.0.9 4002 R {own} 53
            udp send - C 10.88.0.9 4002 R {own} 53
            ipv4 send Udp C 10.88.0.9 R {own}
            eth send Ipv4 C R''', '''
            eth recv mac_src=C mac_dst=R eth_type=Ipv4
            ipv4 recv mac_src=C mac_dst=R ip_src=10.88.0.9 ip_dst={own} next_proto=Udp
            udp recv mac_src=C mac_dst=R ip_src=10.88.0.9 ip_dst={own} transport=Udp \
port_src=4002 port_dst=53
            udp send mac_src=C mac_dst=R ip_src=10.88.0.9 ip_dst={own} transport=Udp \
port_src=4002 port_dst=53
            ipv4 send mac_src=C mac_dst=R ip_src=10.88.0.9 ip_dst={own} transport=Udp \
port_src=4002 port_dst=53 next_proto=Udp
            eth send mac_src=C mac_dst=R ip_src=10.88.0.9 ip_dst={own} transport=Udp \
port_src=4002 port_dst=53 eth_type=Ipv4'''),
        ('silence', '''
            eth recv Ipv4 C R
            ipv4 recv Udp C 10.88.0.9 R {own}
            udp recv - C 10.88.0.9 4003 R {own} 9
            udp drop - C 10.88.0.9 4003 R {own} 9
            ipv4 drop Udp C 10.88.0.9 R {own}
            eth drop Ipv4 C R''', '''
            eth recv mac_src=C mac_dst=R eth_type=Ipv4
            ipv4 recv mac_src=C mac_dst=R ip_src=10.88.0.9 ip_dst={own} next_proto=Udp
            udp recv mac_src=C mac_dst=R ip_src=10.88.0.9 ip_dst={own} transport=Udp \
port_src=4003 port_dst=9
            udp drop mac_src=C mac_dst=R ip_src=10.88.0.9 ip_dst={own} transport=Udp \
port_src=4003 port_dst=9
            ipv4 drop mac_src=C mac_dst=R ip_src=10.88.0.9 ip_dst={own} transport=Udp \
port_src=4003 port_dst=9 next_proto=Udp
            eth drop mac_src=C mac_dst=R ip_src=10.88.0.9 ip_dst={own} transport=Udp \
port_src=4003 port_dst=9 eth_type=Ipv4'''),
        ('not ours', '''
            eth recv Ipv4 C R
            ipv4 recv Icmp C 10.88.0.9 R 10.88.0.254
            ipv4 drop Icmp C 10.88.0.9 R 10.88.0.254
            eth drop Ipv4 C R''', '''
            eth recv mac_src=C mac_dst=R eth_type=Ipv4
            ipv4 recv mac_src=C mac_dst=R ip_src=10.88.0.9 ip_dst=10.88.0.254 next_proto=Icmp
            ipv4 drop mac_src=C mac_dst=R ip_src=10.88.0.9 ip_dst=10.88.0.254 next_proto=Icmp
            eth drop mac_src=C mac_dst=R ip_src=10.88.0.9 ip_dst=10.88.0.254 eth_type=Ipv4'''),
    ]

    def log_frames(self, wire, own, own6):
        """Send what LOG tells of -> [(name, time before, sequence number of the SYN+ACK)]."""
        sent = []
        for name, options in [
                ('arp', dict(packet=arp_request(THIRD_MAC, '10.88.0.9', own), kind=0x806,
                             to=b'\xff' * 6)),
                ('ping', dict(packet=ip_packet('10.88.0.9', own, 1, echo(1)))),
                ('ping6', dict(packet=ip_packet('fd88::9', own6, 58, echo(1, kind=128)))),
                ('syn', dict(packet=ip_packet('10.88.0.9', own, 6,
                                              live_tcp(4001, 80, 1000, 0, 2)))),
                ('dns', dict(packet=ip_packet('10.88.0.9', own, 17,
                                              live_udp(4002, 53, DNS_QUERY)))),
                ('silence', dict(packet=ip_packet('10.88.0.9', own, 17,
                                                  live_udp(4003, 9, b'\xc1')))),
                ('not ours', dict(packet=ip_packet('10.88.0.9', '10.88.0.254', 1, echo(1))))]:
            before, seq = time.time(), None
            if name in ('silence', 'not ours'):
                wire.send(**options)
            else:
                frame = wire.ask(**options)
                self.assertIsNotNone(frame, name)
                seq = struct.unpack_from('!I', frame, 38)[0] if name == 'syn' else None
            sent.append((name, before, seq))
        return sent

    def test_log(self):
        """Both formats say what happened: each event once, at its time, within half a second."""
        client, ours = mac_text(THIRD_MAC), mac_text(FAR_MAC)
        for number, form in enumerate(('console', 'logfmt')):
            each = self.start('10.88.0.15%d,fd88::15%d' % (number, number), '--format', form)
            own, own6 = '10.88.0.15%d' % number, 'fd88::15%d' % number
            mine = re.compile(r'%s|10\.88\.0\.254' % own6.replace('::', '::?') + '|'
                              + re.escape(own) + r'|%s' % client)
            wire = self.wire()
            skip = len(each.out().splitlines())
            sent = self.log_frames(wire, own, own6)
            end = time.monotonic() + 0.5
            wanted = []
            for (name, *texts), (_, before, seq) in zip(self.LOG, sent):
                for line in texts[number].strip().splitlines():
                    words = line.format(own=own, own6=own6, seq=seq).split()
                    words = [re.sub('^(mac_...=)?([CR])$', lambda found: (found.group(1) or '') + {
                        'C': client, 'R': ours}[found.group(2)], word) for word in words]
                    wanted.append((before, '\t'.join('' if word == '-' else word
                                                     for word in words) if not number else
                                   'proto=%s verb=%s ' % tuple(words[:2])
                                   + ' '.join(words[2:])))
            wanted_lines = [line for _, line in wanted]

            def lines():
                return [line for line in each.out().splitlines()[skip:] if mine.search(line)
                        and own_only(line)]

            def own_only(line):
                return client in line and 'fe80' not in line
            while len(lines()) < len(wanted) and time.monotonic() < end:
                time.sleep(0.01)
            got = [re.fullmatch(r'(?:ts=)?(\d{10}\.\d{3})[\t ](.*)', line) for line in lines()]
            self.assertNotIn(None, got)
            with self.subTest(('console', 'logfmt')[number]):
                self.assertEqual([found.group(2) for found in got], wanted_lines)
                for found, (before, _) in zip(got, wanted):
                    self.assertLess(abs(float(found.group(1)) - before), 0.2)
                head = each.out().splitlines()[:8]
                self.assertEqual(
                    [re.sub(r'^(ts=)?\d{10}\.\d{3}[\t ]', '', line) for line in head],
                    ['%s\tinit' % name for name in LAYER_NAMES] if not number else
                    ['proto=%s verb=init' % name for name in LAYER_NAMES])

    def test_large_frames(self):
        """Frames larger than a ring's slot and the MTU arrive whole, by either kind of link."""
        self.make_pair('j', '9000')
        self.addCleanup(self.ip, '-n', self.near, 'link', 'del', 'j0')
        self.ip('-n', self.near, 'addr', 'add', '10.89.0.1/24', 'dev', 'j0')
        post = self.path('post', b'p' * 100000)
        kinds = [('ring', '10.89.0.2', ''),
                 ('plain', '10.89.0.3', 'masscanned.RingLink = masscanned.PacketLink')]
        runs = [Running(self, self.far, '-i', 'j1', '--self-ip-list', own, '-q', '-vvv',
                        code=code) for _, own, code in kinds]
        for (name, own, _), each in zip(kinds, runs):
            with self.subTest(name):
                self.assertIn('8908 bytes from', self.output(
                    'ping', '-n', '-c', '1', '-M', 'do', '-s', '8900', own)[1])
                self.assertEqual(self.output(
                    'curl', '-sS', '-H', 'Expect:', '-w', '_%{http_code}', '-m', '10',
                    '--data-binary', '@' + post, 'http://%s/' % own)[1][-4:], '_401')
                self.assertEqual(each.end(), 0)
                frames = re.findall(r'answered[^:]*: ([0-9a-f]+)$', each.err(), re.M)
                self.assertGreater(max(map(len, frames)) // 2, 20000)
                self.assertNotIn('lost', each.err().splitlines()[-1])

    def test_plain_link(self):
        """Where rings are refused, plain recv does: clients, tags, checksums, -m."""
        own = '10.88.0.161-10.88.0.162'
        each = self.start(own, code='''
def refuse(*args):
    raise OSError(12, 'Cannot allocate memory')
masscanned.RingLink = refuse''')
        wire = self.wire()
        self.assert_answers('10.88.0.161', wire)
        self.assertEqual(self.assert_answers('10.88.0.161', wire, tag=b'\x81\0\x20\x07')[12:16],
                         b'\x81\0\x20\x07')
        self.assertIn('401 Unauthorized', self.output(
            'curl', '-sSi', '-m', '10', 'http://10.88.0.162/')[1])
        self.assertIsNone(wire.ask(ip_packet('10.88.0.9', '10.88.0.161', 17, live_udp(
            4004, 53, DNS_QUERY), 1), 0.2))
        self.assertEqual(each.end(), 0)
        self.assertIn('1 udp checksum', each.err())

    def test_old_kernel(self):
        """Where the TX ring would send its header along, it is not used: all frames are whole."""
        with entered(self.far):
            link = masscanned.open_packet_link('v1', None, None)
            with patched(masscanned, PACKET_IGNORE_OUTGOING=9999):
                old = masscanned.open_packet_link('v1', None, None)
        with contextlib.closing(link.sock), contextlib.closing(link.out), contextlib.closing(
                old.sock), contextlib.closing(old.out):
            self.assertEqual((link.is_recent, link.out_max), (True, masscanned.SEND_MAX))
            self.assertEqual((old.is_recent, old.out_max), (False, 0))
            wire, frame = self.wire(), b'\xff' * 6 + b'\2' * 6 + b'\x88\xb5' + b'x' * 46
            for each in (link, old):
                each.send([frame] * masscanned.SEND_RUN)
                seen = (other for other in wire.frames(5) if b'x' * 40 in other)
                self.assertEqual(list(itertools.islice(seen, masscanned.SEND_RUN)),
                                 [frame] * masscanned.SEND_RUN)

    def test_checkcookie(self):
        """A scan of a host that answers everything: all ports open, and none with the filter."""
        command = ['ip', 'netns', 'exec', self.near] + tool(
            'cscan.py', '-f', '10.88.0.16/29', '-p', '80,5900', '--once', '-ct', 0, '-t', 500)
        for modules, count in (('print', 16), ('checkcookie,print', 0)):
            with self.subTest(modules):
                done = subprocess.run(command + ['-mod', modules], stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE, timeout=TIMEOUT_S)
                self.assertEqual((done.returncode, len(set(done.stdout.split()))), (0, count))
                self.assertIn(b'16 packets in', done.stderr)
        self.assertIn(b'module checkcookie: dropped 16 results', done.stderr)

    def test_banner(self):
        """The scanner's banner of the responder: what it answers to a request of HTTP."""
        done = subprocess.run(['ip', 'netns', 'exec', self.near] + tool(
            'cscan.py', '-x', '-q', '-mod', 'banner', '-mcfg', 'banner.wait=50'),
            input=b'10.88.0.30:81', stdout=subprocess.PIPE, timeout=TIMEOUT_S)
        self.assertRegex(done.stdout, rb'\A10\.88\.0\.30:81 http HTTP/1\.[01] 401 [^\n]*\n\Z')

    def test_vlan(self):
        """An answer carries the tag of its question: none, one, two."""
        wire = self.wire()
        for tag in (b'', b'\x81\0\x20\x07', b'\x81\0\0\0', b'\x88\xa8\0\x05',
                    b'\x88\xa8\0\x05\x81\0\x20\x07', b'\x81\0\0\x05\x81\0\x0f\xff'):
            with self.subTest(tag=tag.hex()):
                answer = self.assert_answers('10.88.0.50', wire, tag=tag)
                self.assertEqual(answer[12:14 + len(tag)], tag + b'\x08\0')
        answer = wire.ask(arp_request(THIRD_MAC, '10.88.0.9', '10.88.0.50'), kind=0x806,
                          to=b'\xff' * 6, tag=b'\x81\0\x20\x07')
        self.assertEqual(answer[12:18], b'\x81\0\x20\x07\x08\x06')

    def test_own_mac(self):
        """-m: that MAC is told, listened to and sent from, and the interface's is not."""
        each = self.start('10.88.0.163,fd88::163', '-q', '-m', mac_text(OTHER_MAC))
        wire = self.wire()
        answer = wire.ask(arp_request(THIRD_MAC, '10.88.0.9', '10.88.0.163'), kind=0x806,
                          to=b'\xff' * 6)
        self.assertEqual((answer[6:12], answer[22:28]), (OTHER_MAC, OTHER_MAC))
        self.assertEqual(self.assert_answers('10.88.0.163', wire, to=OTHER_MAC)[6:12], OTHER_MAC)
        self.assertIsNone(wire.ask(ip_packet('10.88.0.9', '10.88.0.163', 1, echo(1)), 0.2))
        self.assertEqual(self.output('ping', '-6', '-n', '-c', '1', 'fd88::163')[0], 0)
        self.assertEqual(each.end(), 0)

    def test_workers(self):
        """Two of them: every frame is answered once, counters add up, log lines are whole."""
        each = self.start('10.88.0.164', '--workers', 2)
        children = wait_until(lambda: child_pids(each.pid))
        self.assertEqual(len(children), 1)
        wire, ports = self.wire(), list(range(5000, 5400))
        for port in ports:
            wire.send(ip_packet('10.88.0.9', '10.88.0.164', 6, live_tcp(port, 80, 7, 0, 2)))
        answers = collections.Counter()
        for frame in wire.frames(5):
            if frame[26:30] == live_packed('10.88.0.164'):
                answers[struct.unpack_from('!H', frame, 36)[0]] += 1
                if len(answers) == len(ports):
                    break
        self.assertEqual(answers, collections.Counter(ports))
        self.assertEqual(each.end(), 0)
        self.assertGreaterEqual(each.counts()[0], 400)
        self.assertEqual(each.counts()[1], 400)
        self.assertEqual(len(each.err().splitlines()), 2)
        lines = each.out().splitlines()
        for line in lines:
            self.assertRegex(line, r'\A\d{10}\.\d{3}\t(%s)\t(init|recv|send|drop)[^\r\n]*\Z'
                             % '|'.join(LAYER_NAMES))
        told = collections.Counter(line.split('\t', 1)[1] for line in lines)
        for port in ports:
            self.assertEqual(told['tcp\trecv\t2\t%s\t10.88.0.9\t%d\t%s\t10.88.0.164\t80\t7\t0' % (
                mac_text(THIRD_MAC), port, mac_text(FAR_MAC))], 1)
        self.assertEqual({told[name + '\tinit'] for name in LAYER_NAMES}, {1})
        self.assertEqual([pid for pid in children if os.path.exists('/proc/%d' % pid)], [])

    def converse_all(self, count, request, seconds):
        """So many kernel clients at once, each with a request of its own -> answers, as they ended."""
        with entered(self.near):
            socks = [socket.socket() for _ in range(count)]
        got, sent, poll = [b''] * count, [0] * count, select.poll()
        for index, sock in enumerate(socks):
            self.addCleanup(sock.close)
            sock.setblocking(False)
            sock.connect_ex(('10.89.0.2', 1024 + index))
            poll.register(sock, select.POLLIN | select.POLLOUT)
        places = {sock.fileno(): index for index, sock in enumerate(socks)}
        end = time.monotonic() + seconds
        while places and time.monotonic() < end:
            for fd, event in poll.poll(100):
                index = places[fd]
                try:
                    if event & select.POLLOUT and sent[index] < len(request):
                        sent[index] += socks[index].send(request[sent[index]:sent[index] + 2000])
                    if sent[index] == len(request):
                        poll.modify(fd, select.POLLIN)
                    if event & select.POLLIN:
                        data = socks[index].recv(65536)
                        got[index] += data
                        if not data:
                            poll.unregister(fd)
                            del places[fd]
                except OSError as error:
                    got[index] = error
                    poll.unregister(fd)
                    del places[fd]
        return got

    LOSSES = [({0: (0.02, 0)}, 'loss there'), ({0: (0, 0.1)}, 'reordering there'),
              ({0: (0.01, 0.05), 1: (0.01, 0.05)}, 'both ways')]

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1: half a minute of lost frames')
    def test_loss(self):
        """300 clients, requests of 5 kB, frames lost and late: all are answered, none is reset."""
        self.ip('-n', self.near, 'link', 'add', 'x0', 'type', 'veth', 'peer', 'name', 'x1',
                'netns', self.alone)
        self.addCleanup(subprocess.call, ['ip', '-n', self.near, 'link', 'del', 'x0'])
        self.ip('-n', self.alone, 'link', 'add', 'y0', 'type', 'veth', 'peer', 'name', 'y1',
                'netns', self.far)
        self.addCleanup(subprocess.call, ['ip', '-n', self.alone, 'link', 'del', 'y0'])
        for namespace, name in ((self.near, 'x0'), (self.alone, 'x1'), (self.alone, 'y0'),
                                (self.far, 'y1')):
            self.ip('-n', namespace, 'link', 'set', name, 'up')
        with entered(self.near):
            plain_frames('x0')
        self.ip('-n', self.near, 'addr', 'add', '10.89.0.1/24', 'dev', 'x0')
        Running(self, self.far, '-i', 'y1', '--self-ip-list', '10.89.0.2', '-q')
        request = post(b'Connection: close\r\nContent-Length: 5000', b'x' * 5000)
        for shares, name in self.LOSSES * 2:
            with self.subTest(name, seed=SEED):
                relay = Relay(self.alone, ('x1', 'y0'), shares, SEED)
                got = self.converse_all(300, request, 60)
                relay.end()
                whole = [each for each in got if isinstance(each, bytes) and each.endswith(BODY)
                         and each.startswith(b'HTTP/1.1 401 ')]
                self.assertEqual((len(whole), relay.resets), (300, 0))

    def test_workers_at_once(self):
        """Ended the moment they start: still exit 0, nobody is left behind."""
        runs = [self.start('10.88.0.165', '-q', '--workers', 4, ready=False) for _ in range(2)]
        for each in runs:
            wait_until(lambda: 'answering on' in each.err())
            each.process.send_signal(signal.SIGTERM)
        for each in runs:
            self.assertEqual(each.process.wait(5), 0)
            self.assertEqual(each.counts()[1], 0)

    def test_worker_dies(self):
        """A worker that is killed is noticed: the program ends with exit 1, saying so."""
        each = self.start('10.88.0.166', '-q', '--workers', 2)
        os.kill(wait_until(lambda: child_pids(each.pid))[0], signal.SIGKILL)
        self.assertEqual(each.process.wait(5), 1)
        self.assert_line(each.err().split('\n', 1)[1])

    def test_tap(self):
        """--tap: ping, curl and dig of the same host; the device is gone with the process."""
        if not os.path.exists('/dev/net/tun'):
            if REQUIRED:
                self.fail('LIVE=required: needs /dev/net/tun')
            self.skipTest('needs /dev/net/tun')
        each = Running(self, self.alone, '--tap', '10.11.12.0/24', '--tap', 'fd11::/112',
                       '--tap', '10.11.14.0/30')

        def devices():
            return subprocess.check_output(['ip', '-n', self.alone, '-br', 'addr']).decode()
        wait_until(lambda: 'try: ping fd11::2' in each.err())
        self.assertIn('10.11.12.1', devices())
        self.assertIn('try: ping 10.11.12.2', each.err())
        for command, pattern in [
                ('ping -n -c 2 -i 0.1 10.11.12.13', ' 0% packet loss'),
                ('ping -n -c 1 10.11.14.2', ' 0% packet loss'),
                ('ping -6 -n -c 2 -i 0.1 fd11::ffff', ' 0% packet loss'),
                ('curl -sSi -m 5 http://10.11.12.254/', '401 Unauthorized'),
                ('curl -sSi -m 5 http://[fd11::13]/', '401 Unauthorized'),
                ('dig +short +time=2 +tries=2 @10.11.12.13 a.b', r'^10\.11\.12\.13$'),
                ('dig +short +time=2 +tries=2 @fd11::13 a.b AAAA', r'^fd11::13$'),
                ('dig +short +time=2 +tries=2 +tcp @10.11.12.13 a.b', r'^10\.11\.12\.13$')]:
            with self.subTest(command):
                self.assertRegex(self.output(*command.split(), namespace=self.alone)[1],
                                 '(?m)' + pattern)
        self.assertEqual(each.end(), 0)
        self.assertNotIn('masscanned', devices())
        self.assertNotIn('fault', each.err())

    def test_privileges(self):
        """Nothing of root is left, in no process of it."""
        wanted = [(), ('--workers', 2), ('--user', 'daemon')]
        runs = [self.start('10.88.0.17%d' % number, '-q', *args)
                for number, args in enumerate(wanted)]
        wire = self.wire()
        for number, (args, each) in enumerate(zip(wanted, runs)):
            self.assert_answers('10.88.0.17%d' % number, wire)
            entry = pwd.getpwnam('daemon' if 'daemon' in args else 'nobody')
            if '--workers' in args:
                wait_until(lambda: child_pids(each.pid))
            for pid in [each.pid] + child_pids(each.pid):
                with self.subTest(args=args, child=pid != each.pid):
                    status = dict(line.split(':', 1) for line in read_text(
                        '/proc/%d/status' % pid).splitlines())
                    self.assertEqual(status['Uid'].split(), [str(entry.pw_uid)] * 4)
                    self.assertEqual(status['Gid'].split(), [str(entry.pw_gid)] * 4)
                    self.assertEqual(status['Groups'].split(), [])
                    self.assertEqual(status['NoNewPrivs'].strip(), '1')
                    for name in ('CapInh', 'CapPrm', 'CapEff', 'CapAmb'):
                        self.assertEqual(int(status[name], 16), 0, name)
        for each in runs:
            self.assertEqual(each.end(), 0)

    # Payloads that are, or look like, what a responder answers
    STARTERS = [
        ('dns', 53, DNS_QUERY), ('dns answer', 53, DNS_QUERY[:2] + b'\x81' + DNS_QUERY[3:]),
        ('dns status', 53, DNS_QUERY[:2] + b'\x11' + DNS_QUERY[3:]),
        ('dns cut', 53, DNS_QUERY[:-1]), ('dns head only', 53, DNS_QUERY[:12]),
        ('stun', 3478, STUN_REQUEST), ('stun classic', 3478, b'\0\x01\0\0' + bytes(range(16))),
        ('stun unknown attribute', 3478, b'\0\x01\0\x04' + STUN_REQUEST[4:] + b'\x7f\xff\0\0'),
        ('stun success', 3478, b'\x01\x01\0\0' + STUN_REQUEST[4:]),
        ('stun change port', 3478, b'\0\x01\0\x08' + STUN_REQUEST[4:] + b'\0\x03\0\x04\0\0\0\x02'),
        ('ssh', 22, b'SSH-2.0-1\r\n'), ('ssh, long', 22, b'SSH-2.0-' + b'x' * 99 + b'\r\n'),
        ('http', 80, b'GET / HTTP/1.1\r\nHost: x\r\n\r\n'),
        ('http answer', 80, b'HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n'),
        ('rpc', 111, RPC_NULL), ('rpc version', 111, RPC_NULL[:11] + b'\x03' + RPC_NULL[12:]),
        ('rpc reply', 111, RPC_NULL[:7] + b'\x01' + RPC_NULL[8:]),
        ('gh0st', 8000, b'Gh0st\x16\0\0\0\x01\0\0\0\x78\x9c\x4b\x04\0\0\x62\0\x62'),
        ('smb1', 445, b'\0\0\0\x2f\xffSMBr' + bytes(27) + b'\0\x0c\0\x02NT LM 0.12\0'),
        ('netbios session', 139, b'\x81\0\0\x44' + b' ' + b'A' * 32 + b'\0 ' + b'B' * 32 + b'\0'),
    ]

    def test_two_responders(self):
        """Two face each other: whatever single frame begins it, they stop by themselves."""
        runs = [self.start('10.88.0.210,fd88::210'),
                Running(self, self.near, '-i', 'v0', '--self-ip-list', '10.88.0.220,fd88::220')]
        wire = self.wire(mac=NEAR_MAC)
        names = {}
        for number, (name, port, data) in enumerate(self.STARTERS):
            for family, pair in (('', ('10.88.0.220', '10.88.0.210')),
                                 (', IPv6', ('fd88::220', 'fd88::210'))):
                for kind, sport in (('', 6000 + number), (', port to port', port)):
                    if kind and number and port == self.STARTERS[number - 1][1]:
                        continue
                    wire.send(ip_packet(*pair, 17, live_udp(sport, port, data)))
                    names[sport, port, len(live_packed(pair[0]))] = name + kind + family
        for flags in (2, 16, 17, 18, 24, 20):
            wire.send(ip_packet('10.88.0.220', '10.88.0.210', 6, live_tcp(
                6100 + flags, 80, 9, 9, flags, b'GET / HTTP/1.1\r\n\r\n' * (flags == 24))))
            names[6100 + flags, 80, 4] = 'tcp flags %d' % flags
        wire.send(ip_packet('10.88.0.220', '10.88.0.210', 1, echo(7)))
        wire.send(arp_request(NEAR_MAC, '10.88.0.220', '10.88.0.210'), kind=0x806)
        flows, ours = collections.Counter(), (live_packed('10.88.0.220'), live_packed('fd88::220'))
        end = time.monotonic() + 3
        while time.monotonic() < end:
            frames = [frame for frame in wire.frames(0.3, both=True)
                      if any(each in frame for each in ours)]
            if not frames:
                break
            for frame in frames:
                six = frame[12:14] == b'\x86\xdd'
                one, two = struct.unpack_from('!HH', frame, 54 if six else 34)
                size = 16 if six else 4
                flows[names.get((one, two, size)) or names.get((two, one, size))
                      or 'others'] += 1
        self.assertGreater(len(flows), 10)                  # it did begin
        for name, count in sorted(flows.items()):
            with self.subTest(name):
                self.assertLessEqual(count, 12)
        for each in runs:
            self.assertEqual(each.end(), 0)
            self.assertNotIn('fault', each.err())

    def test_checksums(self):
        """Wrong sums: silence, counted; sums a local sender left to the card: accepted."""
        checked, unchecked = '10.88.0.180', '10.88.0.181'
        run, _ = (self.start(own + ',' + own6, '-q', *more) for own, own6, more in (
            (checked, 'fd88::180', ()),
            (unchecked, 'fd88::181', ('--no-checksum', '--remote-ip-deny-list', '10.88.0.8'))))
        wire = self.wire()
        query = live_udp(4005, 53, DNS_QUERY)
        bad = [('icmp', 1, echo(1)), ('udp', 17, query), ('tcp', 6, live_tcp(4006, 80, 1, 0, 2))]
        for name, proto, data in bad:
            for error in (1, 0x100, 0x8000):
                with self.subTest(name, error=error):
                    wire.send(ip_packet('10.88.0.9', checked, proto, data, error))
                    answer = self.assert_answers(checked, wire)     # the good one is the first
                    self.assertEqual(answer[23], 1)
            with self.subTest(name, option='--no-checksum'):
                self.assertIsNotNone(wire.ask(ip_packet('10.88.0.9', unchecked, proto, data, 1)))
        for name, proto, data in (('icmpv6', 58, echo(1, kind=128)), ('udp6', 17, query)):
            with self.subTest(name):
                self.assertIsNone(wire.ask(
                    ip_packet('fd88::9', 'fd88::180', proto, data, 1), 0.1))
                self.assertIsNotNone(wire.ask(ip_packet('fd88::9', 'fd88::180', proto, data)))
        header = bytearray(ip_packet('10.88.0.9', checked, 1, echo(1)))
        header[8] -= 1
        self.assertIsNone(wire.ask(bytes(header), 0.1))
        self.assertIsNone(wire.ask(ip_packet('10.88.0.8', unchecked, 1, echo(1)), 0.1))
        watch = self.wire(self.far, 'v1')
        with entered(self.near):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            sock.settimeout(5)
            sock.connect((checked, 53))
            sock.send(DNS_QUERY)
            self.assertEqual(sock.recv(999)[-4:], live_packed(checked))
            port = sock.getsockname()[1]
        frame = next(frame for frame in watch.frames(5)
                     if frame[23:24] == b'\x11' and frame[34:36] == port.to_bytes(2, 'big'))
        self.assertNotEqual(inet_sum(frame[26:34] + struct.pack('!II', 17, len(frame) - 34)
                                     + frame[34:]), 0xffff, 'this kernel fills sums in')
        self.assertEqual(run.end(), 0)
        for words in ('3 icmpv4 checksum', '3 udp checksum', '3 tcp checksum',
                      '1 icmpv6 checksum', '1 ipv4 checksum'):
            with self.subTest(words):
                self.assertIn(words.replace('3 udp', '4 udp'), run.err())

    def test_start(self):
        """What only a real interface shows: words at the start, warnings, refusals."""
        self.ip('-n', self.far, 'link', 'add', 'd0', 'type', 'veth', 'peer', 'name', 'd1')
        self.addCleanup(self.ip, '-n', self.far, 'link', 'del', 'd0')
        listed = self.path('own.txt', b'# ours\n\n10.88.0.190 # one\n10.88.0.192/31\n'
                                      b'fd88::190-fd88::19f\n')
        started = [Running(self, namespace, *args, '-q', ready=False) for namespace, args in [
            (self.far, ('-i', 'd0', '--self-ip-list', '10.88.0.190')),
            (self.far, ('-i', 'nope0')),
            (self.far, ('-i', 'v1', '--self-ip-list', '10.88.0.190', '--user', 'no such user')),
            (self.near, ('-i', 'v0', '--self-ip-list', '10.88.0.0/28,fd88::1')),
            (self.far, ('-i', 'v1', '-f', listed)),
            (self.alone, ('-i', 'lo')),
            (self.far, ('-i', 'v1', '--self-ip-list', '')),
        ]]
        for each, words in zip(started, ["'d0' is down", "'nope0': no such interface; there are ",
                                         "'no such user': no such user"]):
            with self.subTest(words):
                self.assertEqual(each.process.wait(10), 1)
                self.assert_stop((1, each.out(), each.err()), 1, words)
        for each, patterns in zip(started[3:], [
                [r'answering on v0 \(02:00:00:88:00:01\) for 10\.88\.0\.0/28, fd88::1$',
                 r': 10\.88\.0\.1, fd88::1: an address of this host',
                 r': 10\.88\.0\.0: network or broadcast address of v0: not answered for'],
                [r'answering on v1 \(02:00:00:88:00:02\) for 10\.88\.0\.190, 10\.88\.0\.192/31, '
                 r'fd88::190/124$'],
                [r'answering on lo \(00:00:00:00:00:00\) for every address: '
                 r'no list is given, or it is empty$',
                 r'--self-ip-list limits it'],
                [r'for every address: no list is given, or it is empty$',
                 r'--self-ip-list limits it']]):
            with self.subTest(patterns[0]):
                each.ready()
                wait_until(lambda: len(each.err().splitlines()) >= len(patterns))
                self.assertEqual(each.end(), 0)
                lines = each.err().splitlines()
                self.assertEqual(len(lines), len(patterns) + 1, lines)      # and the counters
                for line, pattern in zip(lines, patterns):
                    self.assertRegex(line, pattern)


@contextlib.contextmanager
def killed_after(process, seconds):
    """A process that hangs is killed, and so ends what reads from it."""
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def child_pids(pid):
    return [int(word) for word in read_text('/proc/%d/task/%d/children' % (pid, pid)).split()]


# ==== Responder: command line =========================================================

class ResponderCli(Case):
    """masscanned.py as it is started: options, mistakes, refusals.  Needs no rights."""

    # name, arguments, status, what the one line must have
    MISTAKES = [
        ('nothing', [], 2, ['--iface NAME or --tap CIDR is needed']),
        ('no interface', ['-q', '--self-ip-list', '10.0.0.1'], 2, ['--iface NAME']),
        ('unknown option', ['-i', 'nope0', '--nope'], 2, ['--nope']),
        ('abbreviated option', ['-i', 'nope0', '--self-ip-l', '10.0.0.1'], 2, ['--self-ip-l']),
        ('positional', ['nope0'], 2, ['nope0']),
        ('argument missing', ['-i'], 2, ['expected one argument']),
        ('bad format', ['-i', 'nope0', '--format', 'xml'], 2, ['--format', 'xml']),
        ('iface twice', ['-i', 'nope0', '--iface', 'eth0'], 2, ['--iface', 'more than once']),
        ('iface twice the same', ['-i', 'nope0', '-i', 'nope0'], 2, ['-i', 'more than once']),
        ('list twice', ['-i', 'nope0', '--self-ip-list', '10.0.0.1', '--self-ip-list', '10.0.0.2'],
         2, ['--self-ip-list', 'more than once']),
        ('format twice', ['-i', 'nope0', '--format', 'console', '--format', 'logfmt'], 2,
         ['--format', 'more than once']),
        ('the default twice', ['-i', 'nope0', '--format', 'console', '--format', 'console'], 2,
         ['--format', 'more than once']),
        ('both', ['-i', 'nope0', '--tap', '10.0.0.0/24'], 2, ['--iface and --tap']),
        ('tap and workers', ['--tap', '10.0.0.0/24', '--workers', '2'], 2, ['one worker only']),
        ('workers auto', ['-i', 'nope0', '--workers', 'auto'], 1, ["'nope0'"]),
        ('MAC short', ['-i', 'nope0', '-m', '02:00:00:00:00'], 2, ['02:00:00:00:00']),
        ('MAC long', ['-i', 'nope0', '-m', '02:00:00:00:00:00:01'], 2, ['02:00:00:00:00:00:01']),
        ('MAC text', ['-i', 'nope0', '-a', 'nonsense'], 2, ['nonsense']),
        ('MAC multicast', ['-i', 'nope0', '--mac-addr', '01:00:5e:00:00:01'], 2,
         ['01:00:5e:00:00:01']),
        ('tap text', ['--tap', 'nonsense'], 2, ['nonsense', 'not a network']),
        ('tap length', ['--tap', '10.0.0.0/33'], 2, ['10.0.0.0/33']),
        ('tap small', ['--tap', '10.0.0.0/31'], 2, ['10.0.0.0/31', 'no room']),
        ('tap one', ['--tap', '10.0.0.1'], 2, ['10.0.0.1', 'no room']),
        ('tap multicast', ['--tap', '224.0.0.0/24'], 2, ['224.0.0.0/24']),
        ('workers none', ['-i', 'nope0', '--workers', '0'], 2, ['--workers', "'0'"]),
        ('workers text', ['-i', 'nope0', '--workers', 'many'], 2, ['--workers', 'many']),
        ('workers many', ['-i', 'nope0', '--workers', '100000'], 2, ['--workers']),
        ('greet text', ['-i', 'nope0', '--greet', 'soon'], 2, ['--greet', "'soon'", 'milliseconds']),
        ('greet negative', ['-i', 'nope0', '--greet=-1'], 2, ['--greet']),
        ('policy', ['-i', 'nope0', '--policy', 'lax'], 2, ['--policy', "'lax'"]),
        ('original and greet', ['-i', 'nope0', '--like-original', '--greet', '200'], 2,
         ['--like-original']),
        ('load', ['-i', 'nope0', '--load', '/nope/x.py'], 1, ['--load', "'/nope/x.py'"]),
        ('budget text', ['-i', 'nope0', '--udp-budget', 'x'], 2, ['--udp-budget', "'x'"]),
        ('budget one', ['-i', 'nope0', '--udp-budget', '5'], 2, ['--udp-budget', "'5'"]),
        ('budget four', ['-i', 'nope0', '--udp-budget', '1,2,3,4'], 2, ['--udp-budget']),
        ('budget negative', ['-i', 'nope0', '--udp-budget=-1,2'], 2, ['--udp-budget']),
        ('budget nan', ['-i', 'nope0', '--udp-budget', 'nan,2'], 2, ['--udp-budget']),
        ('connections', ['-i', 'nope0', '--max-connections', '0'], 2, ['--max-connections']),
        ('timeout', ['-i', 'nope0', '--idle-timeout', '-1'], 2, ['--idle-timeout']),
        ('only and without', ['-i', 'nope0', '--only', 'dns', '--no-protocol', 'http'], 2,
         ['--only and --no-protocol']),
        ('escape sequence', ['-i', 'nope0', '--format', '\x1b[2J'], 2, ['--format']),
        ('only unknown', ['-i', 'nope0', '--only', 'dns,nope'], 1, ["'nope'", 'http']),
        ('without unknown', ['-i', 'nope0', '--no-protocol', 'nope'], 1, ["'nope'", 'http']),
        ('only empty', ['-i', 'nope0', '--only', ''], 1, ["''"]),
        ('interface', ['-i', 'nope0', '-q'], 1, ["'nope0'", 'no such interface', 'lo']),
        ('interface, log on', ['-i', 'nope0'], 1, ["'nope0'", 'no such interface']),
        ('interface, workers', ['-i', 'nope0', '--workers', '3'], 1, ["'nope0'"]),
        ('interface empty', ['-i', ''], 2, ['--iface']),
        ('interface long', ['-i', 'x' * 40], 1, ['no such interface']),
        ('interface odd', ['-i', '\x1b[2J\n'], 1, ['no such interface']),
        ('no file', ['-i', 'nope0', '-f', '/nonexistent/own'], 1,
         ['/nonexistent/own', 'No such file']),
        ('folder', ['-i', 'nope0', '--self-ip-file', '/'], 1, ['/: Is a directory']),
        ('no deny file', ['-i', 'nope0', '--remote-ip-deny-file', '/nonexistent/deny'], 1,
         ['/nonexistent/deny', 'No such file']),
        ('inline list', ['-i', 'nope0', '--self-ip-list', '10.0.0.1,10.0.0.300'], 1,
         ['--self-ip-list', "'10.0.0.300'"]),
        ('inline deny list', ['-i', 'nope0', '--remote-ip-deny-list', '10.0.0.1,x'], 1,
         ['--remote-ip-deny-list', "'x'"]),
        ('list backwards', ['-i', 'nope0', '--self-ip-list', '10.0.0.9-10.0.0.1'], 1,
         ['10.0.0.9-10.0.0.1', 'below']),
        ('list of two families', ['-i', 'nope0', '--self-ip-list', '10.0.0.1-fd00::1'], 1,
         ['10.0.0.1-fd00::1']),
        ('list, odd octets', ['-i', 'nope0', '--self-ip-list', '\x1b[2J'], 1, ['--self-ip-list']),
    ]

    # octets of a list file, line, what the message has
    LIST_FILES = [
        (b'10.0.0.1\n10.0.0.300\n', 2, "'10.0.0.300'"),
        (b'# a\n\n10.0.0.0/33 # b\n', 3, "'10.0.0.0/33'"),
        (b'10.0.0.1\r\n10.0.0.2\r\nfd00::/129\r\n', 3, "'fd00::/129'"),
        (b'fd00::1-fd00::g', 1, "'fd00::1-fd00::g'"),
        (b'10.0.0.9-10.0.0.1', 1, 'below'),
        (b'10.0.0.1 10.0.0.2', 1, '10.0.0.1 10.0.0.2'),
        (b'\xff\xfe1\x000\x00', 1, 'not an address'),
        (b'\x1b[2J', 1, 'not an address'),
    ]

    def start(self, *args, **options):
        """masscanned.py, streams in pipes."""
        return subprocess.Popen(tool('masscanned.py', *args), stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=CLEAN,
                                **options)

    def finish(self, process):
        with killed_after(process, 20):
            out, err = process.communicate()
        return process.returncode, out.decode(), err.decode('utf-8', 'replace')

    def assert_all_stop(self, cases):
        """[(name, Popen, status, parts)]: each ends with one line and nothing else."""
        for name, process, status, parts in cases:
            with self.subTest(name):
                done = self.finish(process)
                self.assertNotIn('Traceback', done[2])
                self.assert_stop(done, status, 'masscanned: ', *parts)

    def test_mistakes(self):
        """Every mistake: one line that names it, the right status, no traceback."""
        for name, args, status, parts in self.MISTAKES:
            if '--tap' not in args:
                with self.subTest(name):
                    self.assert_stop(self.call(args), status, 'masscanned: ', *parts)
        self.assert_all_stop([(name, self.start(*args), status, parts)
                              for name, args, status, parts in self.MISTAKES
                              if '--tap' in args or name in self.REAL])

    REAL = 'unknown option', 'interface, log on'        # as processes, too

    def call(self, args):
        """main() in this process -> (status, stdout, stderr); no row's interface exists."""
        streams = {1: b'', 2: b''}

        def write(fd, data):
            streams[fd] += data
        with unittest.mock.patch.object(masscanned, 'write_all', write):
            try:
                status = masscanned.main(list(args))
            except SystemExit as leaving:
                status = leaving.code
        return status, streams[1].decode(), streams[2].decode()

    def test_list_files(self):
        """A malformed list: file:line, whichever option it belongs to."""
        for data, line, words in self.LIST_FILES:
            path = self.path('list', data)
            for option in ('-f', '--remote-ip-deny-file'):
                with self.subTest(data, option=option):
                    self.assert_stop(self.call(['-i', 'nope0', option, path]), 1,
                                     'masscanned: %s:%d: ' % (path, line), words)

    def test_unreadable_list(self):
        """A file without permission, as an ordinary user."""
        path = self.path('secret', b'10.0.0.1\n')
        os.chmod(path, 0)
        self.assert_stop(self.as_nobody('-i', 'nope0', '-f', path), 1, 'Permission denied', path)

    def as_nobody(self, *args):
        """main() without any right -> (status, stdout, stderr)."""
        os.chmod(self.folder, 0o755)
        code = ('import os, sys; sys.path.insert(0, %r); import masscanned\n'
                'write, masscanned.write_all = masscanned.write_all, lambda *_: None\n'
                'masscanned.main(["-i", "nope0"])   # nobody may not read what is loaded late\n'
                'masscanned.write_all = write\n'
                'if not os.getuid():\n    os.setgroups([]); os.setgid(65534); os.setuid(65534)\n'
                'sys.exit(masscanned.main())' % HERE)
        return self.finish(subprocess.Popen(
            [sys.executable, '-c', code] + list(args), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=CLEAN, cwd='/'))

    def test_no_privilege(self):
        """An ordinary user: one line that says what is missing."""
        for args, words in ((('-i', 'lo', '--self-ip-list', '127.9.9.9'), 'CAP_NET_RAW'),
                            (('-i', 'lo', '--self-ip-list', '127.9.9.9', '--workers', '2'),
                             'CAP_NET_RAW'),
                            (('--tap', '10.11.12.0/24'), 'run as root')):
            with self.subTest(args=args):
                self.assert_stop(self.as_nobody(*args), 1, words)

    def test_children_of_others(self):
        """A process that a container's first one inherits is no worker: its end is nothing."""
        stop = masscanned.Stop()
        try:
            subprocess.Popen(['true']).wait()
            self.assertEqual(stop.came, 0)
            go, end = os.pipe()
            child = os.fork()
            if not child:
                os.read(go, 1)              # until it is known
                os._exit(0)
            stop.children.append(child)
            os.write(end, b'x')
            wait_until(lambda: stop.came)
            self.assertEqual((stop.came, stop.children), (signal.SIGCHLD, []))
            os.close(go)
            os.close(end)
        finally:
            stop.restore()

    @staticmethod
    def make_ring(slots=8):
        """A RingLink on plain memory, of so many slots each way; sock is a Mock."""
        link = masscanned.RingLink.__new__(masscanned.RingLink)
        link.sock, link.out, link.unsent = (unittest.mock.Mock(), unittest.mock.Mock(),
                                            collections.Counter())
        link.ring, link.at = bytearray(slots * masscanned.RING_SLOT), 0
        link.view = memoryview(link.ring)
        link.words, link.quads = link.view.cast('I'), link.view.cast('Q')
        link.out_ring, link.out_at, link.out_last = bytearray(slots * masscanned.SEND_SLOT), 0, 0
        link.out_max = masscanned.SEND_MAX
        return link

    # frames that have come: status and frame of each slot -> rounds of frames, trust
    ARRIVALS = [
        ('nothing', [], []), ('one', [(1, b'a')], [([b'a'], 0)]),
        ('of a size', [(1, b'ab'), (1, b'cd')], [([b'ab', b'cd'], 0)]),
        ('of two', [(1, b'ab'), (1, b'c'), (1, b'de')], [([b'ab', b'c', b'de'], 0)]),
        ('stamped', [(1 | 1 << 29, b'ab')] * 8, [([b'ab'] * 8, 0)]),
        ('trusted', [(9, b'a'), (129, b'b'), (129, b'c'), (1, b'd')],
         [([b'a'], 8), ([b'b', b'c'], 128), ([b'd'], 0)]),
        ('a tag', [(1, b'-' * 20), (17, b'=' * 20)],
         [([b'-' * 20, b'=' * 12 + unhex('81000007') + b'=' * 8], 0)]),
        ('tags', [(17, b'=' * 20)] * 8, [([b'=' * 12 + unhex('81000007') + b'=' * 8] * 8, 0)]),
        ('too large', [(3, b'cut'), (1, b'abc')], [([b'whole', b'abc'], 0)]),
        ('all of them', [(3, b'cut')] * 8, [([b'whole'] * 8, 0)]),
        ('a gap', [(1, b'a'), (0, b''), (1, b'c')], [([b'a'], 0)])]

    def test_ring_in(self):
        """Frames come out of their slots in order, once, round after round."""
        for name, arrivals, rounds in self.ARRIVALS:
            for start in 0, 5:
                with self.subTest(name, start=start), patched(masscanned, RING_SLOTS=8):
                    link = self.make_ring()
                    link.sock.recv.return_value = b'whole'
                    link.at, got = start, []
                    for index, (status, frame) in enumerate(arrivals):
                        at = (start + index) % 8 * masscanned.RING_SLOT
                        slot = struct.pack('=IIIHHIIHH', status, len(frame), len(frame), 66, 80,
                                           0, 0, 7, 0)
                        link.ring[at:at + len(slot)] = slot
                        link.ring[at + 66:at + 66 + len(frame)] = frame
                    for _ in range(5):
                        frames, trust = link.receive()
                        got += [(frames, trust)] if frames else []
                    ends = [frame for frames, _ in got for frame in frames]
                    self.assertEqual(ends, [frame for frames, _ in rounds for frame in frames])
                    if not start:
                        self.assertEqual(got, rounds)
                    self.assertEqual(link.at, (start + len(ends)) % 8)

    def test_ring_out(self):
        """Frames go into slots in order, lists and Replies alike; what finds no room is sent."""
        replies = make_stack().answer_alike([tcp(7, 0, SYN, sport=port) for port in range(6)])
        for frames in list(replies), replies, [bytes((port,)) * 214 for port in range(6)]:
            six, size = list(frames), len(list(frames)[0])
            head = struct.pack('=III20x2xH6x', 1, size + 10, size + 10, size)
            for start in 0, 2, 3, 7:
                with patched(masscanned, SEND_SLOTS=8):
                    link = self.make_ring()
                    link.out_at = start
                    link.send(frames)
                    slots = dict(enumerate(link.out_ring[at:at + 256]
                                           for at in range(0, 8 * 256, 256)))
                    for index, frame in enumerate(six):
                        slot = slots.pop((start + index) % 8)
                        self.assertEqual(slot[:len(head) + size], head + frame, (start, index))
                    self.assertFalse(any(map(any, slots.values())))
                    self.assertEqual((link.out_at, link.out_last),
                                     ((start + 6) % 8, (start + 5) % 8 * 256))
                    self.assertEqual((len(link.out.mock_calls), len(link.sock.mock_calls)), (1, 0))
                    link.send(frames)                   # the first ones are still under way
                    self.assertEqual([call[1][0] for call in link.sock.mock_calls],
                                     six[0 if start else 2:])
                    self.assertEqual(len(link.out.mock_calls), 2)
        for busy, status_at in (0, 0), (3, 0), (5, 0), (2, 3):      # in order or not; big-endian
            with patched(masscanned, STATUS_AT=status_at):
                link = self.make_ring()
                link.out_ring[busy * 256 + status_at] = 1
                link.send(six)
                self.assertEqual((len(link.sock.mock_calls), link.out_at), (6, 0))

    def test_ring_kicked(self):
        """What stays in the ring is kicked before a sleep, and not told as unsent."""
        for status_at, error, unsent in ((0, BlockingIOError(errno.EAGAIN, 'later'), 0),
                                         (3, OSError(errno.ENOBUFS, 'full'), 0),
                                         (0, OSError(errno.ENXIO, 'gone'), 1)):
            with patched(masscanned, STATUS_AT=status_at):
                link = self.make_ring()
                link.out.send.side_effect = error
                link.settle()
                self.assertEqual(link.out.mock_calls, [])
                link.out_last = 5 * 256
                link.out_ring[link.out_last + status_at] = 1
                link.settle()
                self.assertEqual((len(link.out.mock_calls), sum(link.unsent.values())),
                                 (1, unsent))

    def test_ring_is_not_for_all(self):
        """Few frames, those of many sizes, and long ones are sent one by one."""
        for frames in ([b'a' * 60] * 3, [b'a' * 215] * 6, [bytes(60 + size) for size in range(8)],
                       []):
            link = self.make_ring()
            link.send(frames)
            self.assertEqual([call[1][0] for call in link.sock.mock_calls], frames)
            self.assertFalse(any(link.out_ring))

    def test_large_frame_after_an_error(self):
        """A pending error is told by recv() once, the frame it hides comes with the next."""
        link = masscanned.RingLink.__new__(masscanned.RingLink)
        link.sock, link.ring = unittest.mock.Mock(), bytes(64)
        for results, frame in (([b'whole'], b'whole'), ([BlockingIOError()], b'cut'),
                               ([OSError(errno.ENETDOWN, 'down'), b'whole'], b'whole')):
            link.sock.recv.side_effect = results
            self.assertEqual(link.mend(b'cut', masscanned.TP_STATUS_COPY, 0), frame)

    def test_readme(self):
        """The README's protocol table is the program's, and it names every option."""
        with open(os.path.join(HERE, 'README.md'), encoding='utf-8') as file:
            readme = file.read()
        for line in masscanned.protocols_text().splitlines():
            self.assertTrue('    %s\n' % line in readme, line)
        responder = readme.partition('# The responder')[2]
        for action in masscanned.make_parser()._actions:
            for option in action.option_strings:
                if option not in ('-h', '--help', '-V', '--version'):
                    self.assertIn('`%s' % option, responder)

    def test_load(self):
        """The README's example, as it stands there: named, greeted, answered."""
        with open(os.path.join(HERE, 'README.md'), encoding='utf-8') as file:
            text = file.read().partition('This is `mine.py`, whole:\n\n')[2].partition('    sudo ')[0]
        path = self.path('mine.py', textwrap.dedent(text).encode())
        self.assertLessEqual(len([line for line in text.splitlines() if line.strip()]), 10)
        known = set(masscanned.PROTOCOLS)
        with Registry.registered(self):
            masscanned.load_protocols(path)
            self.assertEqual(set(masscanned.PROTOCOLS) - known, {'pop2', 'quote'})
            host = quiet_host()
            self.assertIn('mine.py\n  pop2 ', masscanned.protocols_text())
        stack = make_stack(host=host)
        client = Client(stack, 109)
        client.send(b'', ACK)
        client.take(wake(stack, NOW + 0.2))
        client.say(b'fold x\r\n')
        client.say(b'quit\r\n')
        self.assertEqual((client.got, client.closed),
                         (b'+ POP2 ready\r\n- no such mailbox\r\n+ OK\r\n', True))
        self.assertEqual(Client(stack, 9999).talk(b'quote\n'), b'Listen. You are 40000.\n')

    def test_load_refused(self):
        for name, text, message in (
                ('none.py', 'x = 1\n', "registers no protocol"),
                ('syntax.py', 'x = (\n', 'line '), ('raises.py', '1 / 0\n', 'ZeroDivisionError'),
                ('exits.py', 'import sys\nsys.exit(3)\n', 'SystemExit: 3'),
                ('again.py', "import masscanned\nmasscanned.lines('http', 'x')\n",
                 'http is the name of a protocol already'), ('gone.py', None, 'No such file')):
            path = self.path(name, text and text.encode())
            with Registry.registered(self):
                status, out, err = self.call(['--load', path, '--protocols'])
            self.assertEqual((status, out, err.count('\n')), (1, '', 1), name)
            self.assertIn('--load: %r: ' % path, err)
            self.assertIn(message, err)

    def test_help(self):
        """-h names every option and fits; --version; both on standard output, exit 0."""
        texts = {}
        for option in ('-h', '--help', '-V', '--version', '--protocols'):
            status, texts[option], err = self.finish(self.start(option)) if option[:3] == '--p' \
                else self.call([option])
            self.assertEqual((status, err), (0, ''), option)
        self.assertEqual(texts['-h'], texts['--help'])
        self.assertEqual(texts['-V'], texts['--version'])
        self.assertRegex(texts['-V'], r'\Amasscanned \d+\.\d+\n\Z')
        for option in ('--iface', '--tap', '--mac-addr', '--self-ip-file', '--self-ip-list',
                       '--remote-ip-deny-file', '--remote-ip-deny-list', '--format', '--workers',
                       '--user', '--udp-budget', '--no-protocol', '--only', '--protocols',
                       '--no-checksum', '--quiet', '--version'):
            self.assertIn(option, texts['-h'])
        self.assertLessEqual(max(map(len, texts['-h'].splitlines())), 99)

    def test_protocols(self):
        """--protocols: each of the registry, once, with transport, port and reference."""
        _, text, _ = self.finish(self.start('--protocols'))
        rows = [re.split(r' {2,}', line.strip()) for line in text.splitlines()
                if line.startswith('  ')]
        listed = {row[0]: row[1:] for row in rows[1:]}
        self.assertEqual(len(listed), len(rows) - 1)
        families = [line for line in text.splitlines() if not line.startswith(' ')]
        self.assertEqual(families, [title for title, names in masscanned.FAMILIES if names])
        self.assertEqual(set(listed), set(masscanned.PROTOCOLS))
        for name, row in listed.items():
            with self.subTest(name):
                self.assertIn(row[0], ('tcp', 'udp', 'tcp udp'))
                self.assertTrue(all(0 < int(port) < 65536 for port in row[1].split()))
                self.assertEqual(len(row), 4)
        for name in ('dns', 'gh0st', 'http', 'rpc', 'smb', 'ssh', 'stun'):
            self.assertIn(name, listed)

    def test_lost_output(self):
        """--help, --protocols and mistakes with no or a full stream: no traceback."""
        for option, redirect, wanted in [
                ('--help', '>&-', (0, 1)), ('--help', '>/dev/full', (0, 1, 120)),
                ('--protocols', '>&-', (0, 1)), ('--protocols', '>/dev/full', (0, 1)),
                ('--nope', '2>&-', (2,)), ('--nope', '2>/dev/full', (2,)),
                ('--nope', '<&- >&- 2>&-', (2,))]:
            with self.subTest(option, redirect=redirect):
                status, _, err = run('masscanned.py', option, redirect=redirect)
                self.assertNotIn('Traceback', err)
                self.assertIn(status, wanted)


# ==== Bench ===========================================================================

class Bench(Case):
    """bench.py: arithmetic, table, mistakes; a real run with TEST_ALL=1."""

    def test_figures(self):
        """Ratios are of one round; a round that failed is left out, not counted as 0."""
        for figures, base, wanted in [
                ([2, 3, 8], [1, 1, 2], [2, 3, 4]), ([2, None, 8], [1, 1, 2], [2, 4]),
                ([2, 3, 8], [1, None, 0], [2]), ([], [], []), ([2], (), []), ([None], [None], [])]:
            self.assertEqual(bench.ratios(figures, base), wanted)
        for figures, wanted in [([3, 1, 2], 2), ([1, None, 3], 2), ([None], None), ([], None)]:
            self.assertEqual(bench.median(figures), wanted)
        for number, text in [
                (0, '0'), (7, '7'), (100, '100'), (1234567.8, '1,234,568'), (99.44, '99.4'),
                (9.876, '9.88'), (0.1234, '0.123'), (None, 'failed')]:
            self.assertEqual(bench.figure_text(number), text)

    def test_table(self):
        """The ratio shown is the median of the rounds' ratios, not the ratio of the medians."""
        rows = [bench.Figure('ours', None, 'theirs'), bench.Figure('theirs', None, ''),
                bench.Figure('lost', None, 'theirs'), bench.Figure('alone', None, 'gone')]
        result = {'name': 'x', 'about': 'What it is', 'unit': 'u/s', 'notes': ['look'],
                  'missing': [['peer', 'not there']], 'rows': bench.summarize(rows, {
                      'ours': [10, 30, 40], 'theirs': [100, 10, 20], 'lost': [None] * 3,
                      'alone': [5, 5, 5]})}
        self.assertEqual(bench.table_text(result).splitlines(), [
            'x: What it is, u/s',
            '  ours              30     2.00 x theirs  (0.10 3.00 2.00)',
            '  theirs            20',
            '  lost          failed',
            '  alone              5',
            '  left out: peer: not there',
            '  note: look'])
        first = json.loads(json.dumps(result))['rows'][0]
        self.assertEqual(first, {'name': 'ours', 'base': 'theirs', 'rounds': [10, 30, 40],
                                 'median': 30, 'ratios': [0.1, 3, 2], 'ratio': 2})

    def test_list(self):
        status, out, err = call(bench.main, ['--list'])
        self.assertEqual((status, err), (0, ''))
        self.assertEqual([line.split()[0] for line in out.splitlines()], list(bench.MEASUREMENTS))
        self.assertEqual(call(bench.main, ['--list', '--only', 'file-compile'])[1].count('\n'), 1)
        for each in bench.MEASUREMENTS.values():
            self.assertRegex(each.about, r'^[A-Z].{10,}[^.]$', each.name)
            self.assertIn(each.net, ('kernel', 'bare', ''))

    def test_choose(self):
        for texts, wanted in [
                ([], list(bench.MEASUREMENTS)),
                (['scan-cpu'], ['scan-cpu']),
                (['answer-dns, scan-cpu'], ['scan-cpu', 'answer-dns']),
                (['file'], ['file-cba-write', 'file-cba-read', 'file-compile']),
                (['*-http', 'file-cba'], ['answer-http', 'file-cba-write', 'file-cba-read'])]:
            self.assertEqual([each.name for each in bench.choose(texts)], wanted)

    def test_mistakes(self):
        nowhere = self.path('no/bench.json')
        self.path('cscan.py', b'')
        with patched(bench, check_machine=lambda: None):
            for args, status, parts in [
                    (['--nope'], 2, ['--nope', '-h']), (['x'], 2, ['x']),
                    (['--quic'], 2, ['--quic']), (['--only'], 2, ['--only']),
                    (['--only', 'nope'], 1, ["'nope'", '--list']),
                    (['--only', 'scan-'], 1, ["'scan-'"]),
                    (['--only', ''], 1, ["''", 'scan-silent']),
                    (['--only', 'scan-cpu,'], 1, ["''"]),
                    (['--python', '/no/python'], 1, ["'/no/python'", 'No such file']),
                    (['--python', '/bin/false'], 1, ["'/bin/false'", 'no interpreter']),
                    (['--against', '/no/folder'], 1, ["'/no/folder'", 'cscan.py']),
                    (['--against', self.folder], 1, [repr(self.folder), 'masscanned.py']),
                    (['--json', nowhere], 1, [repr(nowhere), 'No such file'])]:
                with self.subTest(args=args):
                    self.assert_stop(call(bench.main, args), status, 'bench: ', *parts)

    def test_machine(self):
        """Without root or `ip` nothing begins, and one line says what is needed."""
        with unittest.mock.patch('os.geteuid', lambda: 1000):
            self.assert_stop(call(bench.main, []), 1, 'bench: root is needed', 'sudo')
        with unittest.mock.patch('os.geteuid', lambda: 0), \
                unittest.mock.patch('shutil.which', lambda *_, **options: None):
            self.assert_stop(call(bench.main, []), 1, 'bench: ', '`ip`')

    def test_cores(self):
        for text, wanted in [('0', [0]), ('0-1', [0, 1]), ('3,5-7', [3, 5, 6, 7])]:
            with patched(bench, read_text=lambda path: 'x:\t1\nCpus_allowed_list:\t%s\n' % text):
                self.assertEqual(bench.cores(), wanted)

    def test_a_failure_is_a_note(self):
        """One contestant that fails takes no other with it."""
        def rows(lab_bench, lab):
            yield bench.Figure('good', lambda: 4, '')
            yield bench.Figure('bad', unittest.mock.Mock(side_effect=bench.Failed('why not')), 'good')
            yield bench.Missing('absent', 'not installed')
        with patched(bench, build_yardsticks=lambda folder: ''):
            result = bench.Bench('python', True, self.folder).run(
                bench.Measurement('x', 'u', 'About', '', 3, rows))
        self.assertEqual([(row['rounds'], row['ratio']) for row in result['rows']],
                         [([4, 4, 4], None), ([None] * 3, None)])
        self.assertEqual(result['notes'], ['bad: why not'])
        self.assertEqual(result['missing'], [['absent', 'not installed']])

    def test_load(self):
        """The flood without a compiler is answered; its addresses differ."""
        stack = make_stack('10.78.0.2', mac=bytes.fromhex('020000000002'))
        for kind, proto in (('syn', TCP), ('dns', UDP)):
            for number in (0, 59999, 16383):
                frame = bench.make_frame(kind, (11 << 24) + number, ip('10.78.0.2'), number)
                answer, = ask(stack, frame)
                self.assertEqual(answer.proto, proto)
                self.assertEqual(answer.dport, 1024 + number % 60000)
        counts = collections.Counter()
        for number in range(3000):
            frame = bench.make_frame('mixed', (11 << 24) + number, ip('10.78.0.2'), number)
            answers = ask(stack, frame)
            kind = {6: 'tcp %d' % (frame[46] >> 4), 17: 'udp', 1: 'ping'}[frame[23]]
            counts[kind, len(answers) or stack.fate] += 1
            counts['padded'] += len(frame) == 60 and frame[17] < 46
        self.assertEqual(counts, {
            ('tcp 5', 1): 700, ('tcp 6', 1): 700, ('tcp 10', 1): 700, ('udp', 1): 150,
            ('udp', 'udp silence'): 450, ('ping', 1): 150, ('tcp 5', 'tcp reset'): 150,
            'padded': 700})
        hosts = bench.spread(5000)
        self.assertEqual(len(set(hosts)), 5000)
        self.assertEqual(hosts, bench.spread('5000'))

    def test_lines_per_second(self):
        """Lines before the window are not counted; an early end is a failure."""
        pipe, end = os.pipe()
        self.addCleanup(os.close, pipe)
        os.write(end, b'x\n' * 100)
        os.close(end)
        with self.assertRaises(bench.Failed):
            bench.count_lines(pipe, 0.1)

    def test_contestant_that_ends(self):
        """Its last words are told."""
        process = unittest.mock.Mock(returncode=3, errors=io.BytesIO(b'first\nno such thing\n'))
        with self.assertRaisesRegex(bench.Failed, r'\(3\): no such thing$'):
            bench.check_alive(process)

    def test_turns(self):
        """Each has the core in turn, with its load, and is measured by its own CPU time."""
        done, log = collections.Counter(), []

        def starting(name, rate, load):
            def start(lab_bench, stack, lab):
                pids = [unittest.mock.Mock(pid='%s %s' % (name, part)) for part in ('itself', 'load')]
                return bench.Contestant(pids[0], lambda: rate * done[name], tuple(pids[1:][:load]))
            return start

        def signalled(pid, number):
            log.append((pid, number))
            if pid.endswith('itself'):
                done[pid.partition(' ')[0]] += 1
        lab_bench = unittest.mock.Mock(compile_s=0)
        lab_bench.size.return_value = 3
        turns = bench.Turns(lab_bench, [starting('a', 30, 0), starting('b', 12, 1)], False)
        with patched(bench, TURN_S=0, Lab=unittest.mock.Mock(), check_alive=lambda process: None,
                     cpu_s=lambda pid: 0.5 * done[pid.partition(' ')[0]],
                     halt=lambda process: log.append((process.pid, 'halt'))), \
                unittest.mock.patch('os.kill', signalled):
            with self.assertRaises(bench.Failed):
                turns.taker(1)()
            self.assertEqual([turns.taker(number)() for number in range(2)], [60, 24])
        one = [('a itself', signal.SIGCONT), ('a itself', 'halt')]
        two = [('b load', signal.SIGCONT), ('b itself', signal.SIGCONT), ('b itself', 'halt'),
               ('b load', 'halt')]
        self.assertEqual(log, one + two + two + one + one + two)

    def test_turn_of_who_ends(self):
        """A contestant or its load that ends in its turn is a failure, and halts nothing else."""
        for load in 0, 1:
            processes = [subprocess.Popen(['sleep', '60']), subprocess.Popen(['true'])]
            for process in processes:
                process.errors = io.BytesIO(b'its last words')
                self.addCleanup(process.wait)
                self.addCleanup(process.kill)
            wait_until(lambda: ') Z ' in bench.read_text('/proc/%d/stat' % processes[1].pid))
            one, two = processes[::1 if load else -1]
            with patched(bench, TURN_S=0), self.assertRaisesRegex(bench.Failed, 'its last words'):
                bench.Turns.let(one, lambda: 0, (two,))

    def descendants(self, pid):
        """A process's children, theirs, and so on."""
        found = []
        with contextlib.suppress(OSError):
            for child in child_pids(pid):
                found += [child] + self.descendants(child)
        return found

    def namespaces(self, pids):
        """Network namespaces of processes, without ours."""
        found = set()
        for pid in pids:
            with contextlib.suppress(OSError):
                found.add(os.readlink('/proc/%s/ns/net' % pid))
        return found - {os.readlink('/proc/self/ns/net')}

    def start_bench(self, *args):
        if not can_make_namespaces():
            if REQUIRED:
                raise AssertionError('LIVE=required: needs root and `ip netns`')
            self.skipTest('needs root and `ip netns`')
        process = subprocess.Popen(
            tool('bench.py', '--quick', '--json', self.path('bench.json'), *args),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=dict(os.environ, TMPDIR=self.folder))
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def assert_gone(self, namespaces):
        self.assertEqual(len(namespaces), 2)
        wait_until(lambda: not namespaces & self.namespaces(
            name for name in os.listdir('/proc') if name.isdigit()))

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_run(self):
        """A real run: figures, ratios, a whole bench.json, and nothing that is left."""
        process = self.start_bench('--only', 'scan-silent,answer-syn,answer-turns,file-compile')
        found = wait_until(lambda: self.namespaces(self.descendants(process.pid)))
        out, err = process.communicate(timeout=120)
        self.assertEqual((process.returncode, err), (0, b''))
        record = json.loads(self.read('bench.json').decode())
        self.assertEqual(sorted(record['measurements']),
                         ['answer-syn', 'answer-turns', 'file-compile', 'scan-silent'])
        for name, ours in [('scan-silent', 'cscan.py'), ('answer-syn', 'masscanned.py > FILE'),
                           ('answer-turns', 'masscanned.py > FILE'),
                           ('file-compile', 'compile_targets.py')]:
            result = record['measurements'][name]
            row = {row['name']: row for row in result['rows']}[ours]
            self.assertEqual(len(row['rounds']), 3, result)
            self.assertGreater(min(row['rounds']), 100, result)
            self.assertIn(bench.table_text(result), out.decode())
        wait_until(lambda: not found & self.namespaces(
            name for name in os.listdir('/proc') if name.isdigit()))

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1')
    def test_signals(self):
        """However it ends, its processes and namespaces end with it."""
        for number, status in [(signal.SIGINT, 130), (signal.SIGTERM, 130),
                               (signal.SIGKILL, -signal.SIGKILL)]:
            for name, running in [('scan-silent', 'connect'), ('answer-http', 'masscanned.py')]:
                with self.subTest(number, name=name):
                    process = self.start_bench('--only', name)
                    wait_until(lambda: any(running in bench.read_text('/proc/%d/cmdline' % pid)
                                           for pid in self.descendants(process.pid)))
                    time.sleep(0.3)
                    found = self.namespaces(self.descendants(process.pid))
                    process.send_signal(number)
                    err = process.communicate(timeout=20)[1].decode()
                    self.assertEqual(process.returncode, status, err)
                    if status > 0:
                        self.assert_line(err.lstrip(), 'interrupted', 'bench.json')
                    self.assert_gone(found)

    @unittest.skipUnless(TEST_ALL and shutil.which('cc'), 'TEST_ALL=1 and a C compiler')
    def test_yardsticks_have_no_warnings(self):
        source = self.path('yardstick.c', bench.YARDSTICKS.encode())
        done = subprocess.run(['cc', '-O2', '-Wall', '-Wextra', '-o', self.path('y'), source],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual(done.stdout, b'')

    def test_readme(self):
        """The README names every option."""
        with open(os.path.join(HERE, 'README.md'), encoding='utf-8') as file:
            part = file.read().partition('# Measuring')[2]
        for option in ('--only', '--quick', '--python', '--json', '--list', '--against'):
            self.assertIn('`%s' % option, part)


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
