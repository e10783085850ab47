/**
 * First thing of every npm script: makes sure that the dependencies are there, then runs `scripts/<command>.ts` on Node
 * 24. Plain JavaScript without dependencies, because it runs on whatever Node the machine has (20 or newer), before
 * anything is installed. Node 24 itself comes with the dependencies, as the npm package `node`.
 *
 *   node scripts/setup.mjs <command> […arguments]
 */
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { basename, delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const modules = join(root, 'node_modules');
const stampFile = join(modules, '.windlass-installed');
const nodeProgram = join(modules, 'node', 'bin', 'node');
const parent = process.ppid;
/** How often it is looked whether npm is still there, in ms. */
const npmCheckMs = 1_000;

const [command, ...args] = process.argv.slice(2);

checkPlatform();
const script = findScript();
if (!isInstalled()) install();
checkNode();
run();

function checkPlatform() {
  if (Number(process.versions.node.split('.')[0]) < 20) {
    quit(
      `Windlass needs Node 20 or newer to set itself up, and this is Node ${process.versions.node}. See https://nodejs.org.`,
    );
  }
  if (process.platform !== 'linux' && process.platform !== 'darwin') {
    quit(
      `Windlass runs on Linux and macOS, not on ${process.platform}. On Windows run it inside WSL, or use \`docker compose up\`.`,
    );
  }
}

function findScript() {
  const name = `${command}.ts`;
  const scripts = readdirSync(join(root, 'scripts'));
  if (command !== undefined && /^[a-z-]+$/.test(command) && scripts.includes(name))
    return join(root, 'scripts', name);
  return quit(
    `There is no command "${command ?? ''}": scripts/ holds no such file. See the scripts of package.json.`,
  );
}

/**
 * The stamp says for which lockfile and platform node_modules was made. Without one, what npm noted there itself
 * decides: who ran `npm install` by hand is not made to wait for another.
 */
function isInstalled() {
  if (readOrEmpty(stampFile) === stamp()) return true;
  if (!hasAllPackages() || !existsSync(nodeProgram)) return false;
  writeStamp();
  return true;
}

function stamp() {
  const lock = createHash('sha256')
    .update(readFileSync(join(root, 'package-lock.json')))
    .digest('hex');
  return `${lock} ${process.platform} ${process.arch}\n`;
}

function writeStamp() {
  try {
    writeFileSync(stampFile, stamp());
  } catch {
    // In somebody else's checkout the packages are compared every time, which takes a moment longer.
  }
}

function hasAllPackages() {
  const installed = readPackages(join(modules, '.package-lock.json'));
  const wanted = readPackages(join(root, 'package-lock.json'));
  return Object.entries(wanted).every(([path, { version, integrity, optional, link }]) => {
    if (path === '' || link) return true;
    const found = installed[path];
    if (found === undefined) return optional === true;
    return found.version === version && found.integrity === integrity;
  });
}

function readPackages(lockFile) {
  const text = readOrEmpty(lockFile);
  return text === '' ? {} : JSON.parse(text).packages;
}

function readOrEmpty(file) {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}

/** Everything npm has to say is shown if it fails, nothing if it does not. */
function install() {
  process.stderr.write('Installing the dependencies (once, this may take a minute) …\n');
  const { file, before, env } = npm();
  const result = spawnSync(
    file,
    // Test tools and platform packages too, whatever NODE_ENV or the user's npm settings leave out.
    [
      ...before,
      'ci',
      '--loglevel=error',
      '--no-audit',
      '--no-fund',
      '--no-progress',
      '--include=dev',
      '--include=optional',
    ],
    { cwd: root, env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], maxBuffer: 64 * 1024 * 1024 },
  );
  if (result.error !== undefined)
    quit(`npm could not be started (${result.error.message}). Install it, or run \`npm ci\` yourself.`);
  if (result.status !== 0) {
    process.stderr.write(result.stdout + result.stderr);
    quit(
      `Installing the dependencies failed (npm ended with ${result.signal ?? result.status}). Its own words are above. ` +
        'Most often the npm registry cannot be reached, or the disk is full. Run the same command again when that is mended.',
    );
  }
  writeStamp();
}

/**
 * The npm that runs us, on the Node that it runs on. When npm has put node_modules/.bin on the PATH, "node" is the
 * one inside the directory that `npm ci` is about to delete: then both are looked for elsewhere on the PATH.
 */
function npm() {
  const { npm_execpath: npmFile = '', npm_node_execpath: node = '' } = process.env;
  const path = (process.env.PATH ?? '')
    .split(delimiter)
    .filter((dir) => !dir.startsWith(modules))
    .join(delimiter);
  const env = { ...process.env, PATH: path };
  if (
    basename(npmFile) === 'npm-cli.js' &&
    existsSync(npmFile) &&
    existsSync(node) &&
    !node.startsWith(modules)
  ) {
    return { file: node, before: [npmFile], env };
  }
  return { file: 'npm', before: [], env };
}

function checkNode() {
  if (!existsSync(nodeProgram)) {
    quit(
      'Node 24 was not installed, because npm is set to run no install scripts (ignore-scripts). ' +
        'Allow that one: `npm rebuild node --ignore-scripts=false`.',
    );
  }
  const { status } = spawnSync(nodeProgram, ['--version']);
  if (status !== 0) {
    quit(
      `${nodeProgram} does not run here. Systems with another C library than glibc (Alpine) are not supported: ` +
        'use `docker compose up`. If node_modules was copied from another machine, delete it and try again.',
    );
  }
}

/** The script takes our place as far as possible: same terminal, same signals, same exit code. */
function run() {
  const child = spawn(nodeProgram, [script, ...args], {
    cwd: root,
    // The channel carries nothing: its end tells the script that we are gone, also when we were killed with -9.
    stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
    env: {
      ...process.env,
      PATH: `${join(modules, '.bin')}${delimiter}${process.env.PATH ?? ''}`,
      NODE_COMPILE_CACHE: process.env.NODE_COMPILE_CACHE ?? join(modules, '.cache', 'windlass-compile'),
    },
  });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    process.on(signal, () => {
      // Ctrl-C reaches every process of the terminal, the script too: it should not count it twice.
      if (signal !== 'SIGINT' || !process.stdin.isTTY) child.kill(signal);
    });
  }
  if (isRunByNpm()) {
    const timer = setInterval(() => {
      if (process.ppid === parent) return;
      // Once: to the service a second signal means "at once".
      clearInterval(timer);
      child.kill('SIGTERM');
    }, npmCheckMs);
    timer.unref();
  }
  child.on('error', (err) => quit(`${nodeProgram} could not be started: ${err.message}`));
  child.on('exit', (code, signal) => process.exit(code ?? 128 + constants.signals[signal]));
}

/**
 * By npm itself, and not by something further down that inherited its variables. Then our parent is npm, because the
 * scripts of package.json begin with `exec`, or the shell that npm runs them with: the death of either means that npm was
 * ended and could not tell us. The end of whoever started npm changes nothing: `npm start &` is meant to stay.
 */
function isRunByNpm() {
  return (process.env.npm_lifecycle_script ?? '').startsWith(`exec node scripts/setup.mjs ${command}`);
}

function quit(message) {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}
