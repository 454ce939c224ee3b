import { describe, it } from 'node:test'
import assert from 'node:assert/strict'
import { CommandExitError, TimeoutError } from 'e2b'
import { eventually, oneSandbox } from './support.mjs'

describe('commands', () => {
  const shared = oneSandbox()
  const run = (...args) => shared.box.commands.run(...args)

  it('return output and exit code', async () => {
    const result = await run('echo out; echo err >&2')
    assert.deepEqual([result.stdout, result.stderr, result.exitCode], ['out\n', 'err\n', 0])
  })

  it('throw with their output when they fail', () => assert.rejects(run('echo before; echo why >&2; exit 7'), (err) => {
    assert.ok(err instanceof CommandExitError)
    assert.deepEqual([err.exitCode, err.stdout, err.stderr], [7, 'before\n', 'why\n'])
    return true
  }))

  it('stream their output', async () => {
    let seen = ''
    await run('for i in 1 2 3; do echo $i; done', { onStdout: (text) => { seen += text } })
    assert.equal(seen, '1\n2\n3\n')
  })

  it('take environment and working directory', async () => {
    assert.equal((await run('echo "$A"; pwd', { envs: { A: '1 2' }, cwd: '/tmp' })).stdout, '1 2\n/tmp\n')
  })

  it('run as user and as root', async () => {
    assert.equal((await run('id -un; echo $HOME')).stdout, 'user\n/home/user\n')
    assert.equal((await run('id -u', { user: 'root' })).stdout, '0\n')
  })

  it('refuse an unknown user or directory', async () => {
    await assert.rejects(run('true', { user: 'nobody-like-this' }))
    await assert.rejects(run('true', { cwd: '/nowhere' }))
  })

  it('lose nothing of a large output', async () => {
    const want = Array.from({ length: 200_000 }, (_, i) => `${i + 1}\n`).join('')
    assert.equal((await run('seq 1 200000')).stdout, want)
  })

  it('are listed and killed', async () => {
    const command = await run('sleep 300', { background: true })
    assert.ok((await shared.box.commands.list()).some((p) => p.pid === command.pid))
    assert.equal(await shared.box.commands.kill(command.pid), true)
    await assert.rejects(command.wait(), CommandExitError)
    assert.equal(await shared.box.commands.kill(command.pid), false)
  })

  it('are connected to and fed', async () => {
    const command = await run('read line; echo got $line', { background: true, stdin: true })
    const other = await shared.box.commands.connect(command.pid)
    await shared.box.commands.sendStdin(command.pid, 'hello\n')
    assert.equal((await other.wait()).stdout, 'got hello\n')
    assert.equal((await command.wait()).stdout, 'got hello\n')
  })

  it('read stdin until it is closed', async () => {
    const command = await run('cat', { background: true, stdin: true })
    await shared.box.commands.sendStdin(command.pid, 'one\n')
    await shared.box.commands.sendStdin(command.pid, 'two ä\n')
    await shared.box.commands.closeStdin(command.pid)
    assert.equal((await command.wait()).stdout, 'one\ntwo ä\n')
  })

  it('are killed at their timeout', async () => {
    await assert.rejects(run('sleep 77', { timeoutMs: 1000 }), TimeoutError)
    assert.ok(await eventually(async () => (await run("pgrep -f '^sleep 77' || echo none")).stdout.includes('none')))
  })

  it('run at the same time', async () => {
    const out = await Promise.all(Array.from({ length: 8 }, async (_, i) => (await run(`sleep 0.3; echo ${i}`)).stdout))
    assert.deepEqual(out, Array.from({ length: 8 }, (_, i) => `${i}\n`))
  })

  it('go on when the client disconnects', async () => {
    const command = await run('sleep 200', { background: true })
    await command.disconnect()
    assert.ok((await shared.box.commands.list()).some((p) => p.pid === command.pid))
    assert.equal(await shared.box.commands.kill(command.pid), true)
  })
})
