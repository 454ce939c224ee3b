# Prints what a program can do in a directory, one word for each; what fails it leaves out.
import ctypes, errno, fcntl, mmap, os, stat, sys
os.chdir(sys.argv[1])
def write(name, text, flags=os.O_TRUNC):
    f = os.open(name, os.O_RDWR | os.O_CREAT | flags, 0o644)
    os.write(f, text)
    return f
def read(name): return open(name, 'rb').read()
def symlink():
    os.symlink('f', 'l'); assert read('l') == b'text'
def link():
    os.link('f', 'h'); assert os.stat('f').st_nlink == 2 and read('h') == b'text'
def rename():
    os.close(write('n', b'new')); os.rename('n', 'o'); os.close(write('n', b'newer')); os.rename('n', 'o'); assert read('o') == b'newer'
def renamedir():
    os.mkdir('d'); os.close(write('d/f', b'x')); os.rename('d', 'e'); assert read('e/f') == b'x'
def append():
    os.close(write('a', b'one')); os.close(write('a', b'two', os.O_APPEND)); assert read('a') == b'onetwo'
def truncate():
    os.close(write('t', b'onetwo')); os.truncate('t', 3); assert read('t') == b'one'
def chmod():
    os.chmod('f', 0o600); assert stat.S_IMODE(os.stat('f').st_mode) == 0o600
def xattr():
    os.setxattr('f', 'user.k', b'v'); assert os.getxattr('f', 'user.k') == b'v'
def unlinked():
    f = write('u', b'still'); os.unlink('u'); assert os.pread(f, 5, 0) == b'still'
def lock():
    f = write('k', b''); fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB); fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
def mapped():
    f = write('m', b'x' * 4096); m = mmap.mmap(f, 4096); m[0:4] = b'text'; m.flush(); m.close(); os.close(f); assert read('m')[:4] == b'text'
def fifo(): os.mkfifo('p')
def allocate():
    f = write('s', b''); assert ctypes.CDLL(None, use_errno=True).fallocate(f, 0, ctypes.c_long(0), ctypes.c_long(8192)) == 0
os.close(write('f', b'text'))
for do in (symlink, link, rename, renamedir, append, truncate, chmod, xattr, unlinked, lock, mapped, fifo, allocate):
    try: do(); print(do.__name__, end=' ')
    except (OSError, AssertionError): pass
