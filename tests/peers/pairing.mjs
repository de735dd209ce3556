// Computes the pairing of a verification_key.json's alpha and beta with snarkjs' own library, and says whether the
// file's vk_alphabeta_12 is it. Arguments: the folder of node_modules, the file.

import { readFileSync } from "node:fs";
import { argv, exit } from "node:process";
import { pathToFileURL } from "node:url";

const [modules, file] = argv.slice(2);
const { buildBn128, utils } = await import(pathToFileURL(`${modules}/ffjavascript/main.js`));
const written = JSON.parse(readFileSync(file, "utf8"));
const key = utils.unstringifyBigInts(written);
const curve = await buildBn128(true);
const pairing = await curve.pairing(curve.G1.fromObject(key.vk_alpha_1), curve.G2.fromObject(key.vk_beta_2));
const expected = utils.stringifyBigInts(curve.Gt.toObject(pairing));
exit(JSON.stringify(expected) === JSON.stringify(written.vk_alphabeta_12) ? 0 : 1);
