// The same servers on Node.js: `node server.js TARGET MODE [PEM]`, as `limit_server.c` has them.
'use strict'
const dgram = require('dgram')
const fs = require('fs')
const net = require('net')
const tls = require('tls')

const [target, mode, pem] = process.argv.slice(2)
const block = Buffer.alloc(65536, 'x')

function pour(socket) {
  while (socket.write(block)) { /* until its buffer is full */ }
}

function serve(socket) {
  socket.setNoDelay?.(true)
  socket.on('error', () => socket.destroy())
  if (mode === 'echo') socket.on('data', (data) => socket.write(data))
  else if (mode === 'sink') socket.on('data', () => {})
  else {
    socket.on('drain', () => pour(socket))
    socket.resume()
    pour(socket)
  }
}

if (target === 'udp') {
  const socket = dgram.createSocket('udp4')
  socket.on('message', (data, from) => socket.send(data, from.port, from.address))
  socket.bind(0, '127.0.0.1', () => console.log(socket.address().port))
} else {
  const server = target === 'tls'
    ? tls.createServer({ key: fs.readFileSync(pem), cert: fs.readFileSync(pem) }, serve)
    : net.createServer(serve)
  server.on('tlsClientError', () => {})
  const where = target.startsWith('unix:') ? { path: target.slice(5) } : { port: 0, host: '127.0.0.1' }
  server.listen({ ...where, backlog: 4096 }, () => console.log(server.address().port ?? 0))
}
