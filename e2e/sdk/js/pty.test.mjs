import { describe, it } from 'node:test'
import assert from 'node:assert/strict'
import { oneSandbox } from './support.mjs'

const bytes = (text) => new TextEncoder().encode(text)

describe('pty', () => {
  const shared = oneSandbox()

  it('runs what is typed', async () => {
    let seen = ''
    const pty = await shared.box.pty.create({ rows: 30, cols: 101, cwd: '/tmp', envs: { COLOUR: 'blue' }, onData: (data) => { seen += new TextDecoder().decode(data) } })
    await shared.box.pty.sendInput(pty.pid, bytes('stty size; echo "<$COLOUR>"; tty -s && echo is-a-tty; exit\n'))
    await pty.wait()
    assert.ok(seen.includes('30 101') && seen.includes('<blue>') && seen.includes('is-a-tty'), seen)
  })

  it('is resized', async () => {
    let seen = ''
    const pty = await shared.box.pty.create({ rows: 24, cols: 80, onData: (data) => { seen += new TextDecoder().decode(data) } })
    await shared.box.pty.resize(pty.pid, { rows: 50, cols: 132 })
    await shared.box.pty.sendInput(pty.pid, bytes('stty size; exit\n'))
    await pty.wait()
    assert.ok(seen.includes('50 132'), seen)
  })

  it('is killed', async () => {
    const pty = await shared.box.pty.create({ rows: 24, cols: 80, onData: () => {} })
    assert.equal(await shared.box.pty.kill(pty.pid), true)
    await assert.rejects(pty.wait())
    assert.equal(await shared.box.pty.kill(pty.pid), false)
  })
})
